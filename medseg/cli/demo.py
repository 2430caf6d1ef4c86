"""``medseg demo``: the main job from end to end, on sample scans."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.screen import case_progress, console

if TYPE_CHECKING:
    from rich.table import Table

    from medseg.batch.summary import RunSummary
    from medseg.phantom.dataset import Unseen
    from medseg.quality.evaluate import Evaluation, Pair
    from medseg.training.run import TrainingRun

CONFIG = Path(__file__).with_name("demo.yaml")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    data_only: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Only make the sample scans, in this folder, and stop.")
    ] = None,
) -> None:
    """Show the main job on sample scans: make them, train, segment unseen ones, evaluate, draw pictures.

    Takes a few minutes on two cores. The scans are synthetic CTs of the abdomen: a training folder with masks, and
    the unseen folder of a small hospital, DICOM and NIfTI mixed, with one broken file.

    Example: `medseg demo --output demo`
    """
    from medseg.phantom.dataset import make_sample_data

    if data_only:
        make_sample_data(data_only)
        console().print(f"Sample scans: {data_only}")
        return
    began = perf_counter()
    unseen = make_scans(output / "data")
    run = train_model(output)
    summary = segment_scans(output)
    evaluation = evaluate_masks(output, unseen, summary)
    console().print(result_table(output, run, summary, evaluation))
    console().print(f"All of this took {perf_counter() - began:.0f} s. Now your own scans; docs/tutorial.md tells how,")
    console().print("for CT (of MR: mr in place of ct):")
    console().print(
        "  medseg train --data YOUR_DATASET --output runs/yours --set dataset.modality=ct\n  medseg segment YOUR_SCANS "
        "--model runs/yours/model --output results"
    )


def make_scans(folder: Path) -> tuple[Unseen, ...]:
    """Make the sample scans, or take those of an earlier demo."""
    from medseg.phantom.dataset import make_sample_data, read_truth

    console().rule("1 of 4: sample scans")
    if (folder / "truth.csv").exists():
        return read_truth(folder)
    return make_sample_data(folder)


def train_model(output: Path) -> TrainingRun:
    """Train on the sample scans, as ``medseg train`` does."""
    from medseg.cli.options import experiment
    from medseg.training.run import RunOptions, run_training

    console().rule("2 of 4: train")
    return run_training(experiment(CONFIG, output / "data" / "train", None), output / "run", RunOptions(screen=True))


def segment_scans(output: Path) -> RunSummary:
    """Segment the unseen scans, as ``medseg segment`` does; the pseudonyms' key stays in the demo's folder."""
    from medseg.batch.segment_folder import segment_folder
    from medseg.config import SegmentConfig
    from medseg.quality.report import write_report
    from medseg.quality.viewer import draw_case

    console().rule("3 of 4: segment unseen scans")
    scans, model = output / "data" / "scans", output / "run" / "model"
    config = SegmentConfig(key=output / "pseudonym.key")
    with case_progress() as watcher:
        summary = segment_folder(scans, model, output / "results", config, picture=draw_case, watcher=watcher)
    write_report(output / "results")
    return summary


def evaluate_masks(output: Path, unseen: tuple[Unseen, ...], summary: RunSummary) -> Evaluation:
    """Compare the masks with the truth and write scores and plot, as ``medseg evaluate`` does."""
    from medseg.cli.evaluate import write_evaluation
    from medseg.phantom.dataset import LABELS
    from medseg.quality.evaluate import evaluate_pairs

    console().rule("4 of 4: evaluate")
    evaluation = evaluate_pairs(pair_up(output, unseen, summary), LABELS)
    write_evaluation(evaluation, output / "results" / "evaluation")
    return evaluation


def pair_up(output: Path, unseen: tuple[Unseen, ...], summary: RunSummary) -> list[Pair]:
    """Return each unseen scan's mask with its truth; a scan that was not segmented has no mask."""
    from medseg.batch.record import MASK
    from medseg.quality.evaluate import Pair

    cases = {output / "data" / "scans" / source: case for case, source in summary.sources.items()}
    folder = output / "results" / "cases"
    return [Pair(cases[item.scan], folder / cases[item.scan] / MASK, item.truth) for item in unseen]


def result_table(output: Path, run: TrainingRun, summary: RunSummary, evaluation: Evaluation) -> Table:
    """Return what was made, where it is, and how good it is."""
    from rich.table import Table

    scores = ", ".join(f"{target.target} {target.dice.mean:.2f}" for target in evaluation.targets if target.dice)
    table = Table("what", "where", "how good", title="What the demo made")
    table.add_row("sample scans", str(output / "data"), "synthetic CTs, DICOM and NIfTI")
    table.add_row("model", str(run.model), "weights and plan: all that segmenting needs")
    done, bad = summary.count("done", "done_with_flags"), summary.count("rejected")
    table.add_row("masks, pictures", str(output / "results" / "cases"), f"{done} scans; {bad} broken one refused")
    table.add_row("review", str(output / "results" / "report.html"), "what to look at first; opens offline")
    table.add_row("volumes", str(output / "results" / "cases.csv"), "ml of each structure in each scan")
    table.add_row("scores", str(output / "results" / "evaluation"), f"Dice on unseen scans: {scores}")
    return table
