"""Which ten scans to correct? Hippocampus: a model of six labels learns from ten more, doubtful ones or random ones.

    MEDSEG_DATA=FOLDER python benchmarks/review/rounds.py --runs RUNS --draw 0 [--start MODEL] [--max-seconds N]

For one draw of six labelled cases (`labelled_cases` of semi_supervised/arms.py): their model segments the other
174 training scans, and the review's priority ranks them. The true masks of the ten that it ranks first are one arm's
corrections, those of ten random ones the other's. Both arms are fine-tuned from the model on the six and the ten cases,
with equal steps. Scored are model folders through the folder segmentation that users call, on the 28 validation cases,
which decide nothing. The arm `none`, on request, does the same steps on the six alone. `--start` takes a model of the
draw that is there already. A stopped run goes on, a finished one is only scored again.

Writes results/rounds_DRAW.csv (a row a case), results/rounds_DRAW.json, and results/rounds.png of all draws so far.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "semi_supervised")]

from arms import CONFIGS, labelled_cases  # noqa: E402
from held_out import score  # noqa: E402
from paired import case_dice, difference  # noqa: E402
from scans import real_scans  # noqa: E402

from medseg.batch.segment_folder import segment_folder  # noqa: E402
from medseg.config import ExperimentConfig, load_config  # noqa: E402
from medseg.io.tables import write_csv  # noqa: E402
from medseg.networks.model import load_model, model_digest  # noqa: E402
from medseg.provenance import machine, package_versions  # noqa: E402
from medseg.quality.evaluate import Pair, evaluate_pairs  # noqa: E402
from medseg.quality.review import review_results  # noqa: E402
from medseg.training.fine_tuning import STEPS, Wishes, for_fine_tuning  # noqa: E402
from medseg.training.run import RunOptions, run_training  # noqa: E402

LABELLED, CORRECTED = 6, 10
ARMS = ("doubtful", "random", "none")
RESULTS = HERE / "results"

Dice = dict[str, float]
"""By case."""


def main() -> None:
    wanted = arguments()
    study = Study(real_scans("hippocampus") / "hippocampus", wanted)
    start = wanted.start or study.train("first", study.first)
    if start is None:
        return
    if sorted(load_model(start).provenance.get("training_cases", ())) != sorted(study.first):
        sys.exit(f"{start} has not learnt from the six cases of draw {wanted.draw}")
    chosen, dice = study.choose(start), {"before": case_dice(score(start, study.data))}
    for arm in wanted.arms:
        model = study.train(arm, [*study.first, *chosen[arm]], start)
        if model is None:
            return
        dice[arm] = case_dice(score(model, study.data))
    keep(study, start, chosen, dice)
    plot()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--draw", type=int, default=0, help="number of the draw of six labelled cases, and the seed")
    parser.add_argument("--start", type=Path, help="model folder of this draw; default: it is trained")
    parser.add_argument("--first-steps", type=int, default=1000, help="training steps of the model of six labels")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each fine-tuning")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS[:2])
    parser.add_argument("--max-seconds", type=float, help="stop training with a checkpoint after this time")
    return parser.parse_args()


class Study:
    """One draw: its data, where its runs are, and how long they may take together."""

    def __init__(self, data: Path, wanted: argparse.Namespace) -> None:
        self.data, self.wanted, self.began = data, wanted, time.monotonic()
        self.folder = wanted.runs / f"rounds_{wanted.draw}"
        self.first = labelled_cases(data, LABELLED, wanted.draw)

    def train(self, name: str, cases: list[str], start: Path | None = None) -> Path | None:
        """Return the model trained on these cases, or fine-tuned if there is one to start from; None: out of time."""
        limit, spent = self.wanted.max_seconds, time.monotonic() - self.began
        left = None if limit is None else max(1e-3, limit - spent)
        options = RunOptions("cpu", max_seconds=left, cache=self.wanted.runs / "cache", screen=True)
        config = self.configuration(cases)
        if start:
            config = for_fine_tuning(config, Wishes(self.wanted.steps))
        return run_training(config, self.folder / name, replace(options, init=start)).model

    def configuration(self, cases: list[str]) -> ExperimentConfig:
        chosen = json.dumps(sorted(cases))
        steps = f"training.steps={self.wanted.first_steps}"
        # without validation cases: they decide nothing, and are scored as users' scans are
        lists = [f"dataset.train={chosen}", "dataset.validation=[]", f"training.seed={self.wanted.draw}"]
        return load_config(CONFIGS["hippocampus"], [f"dataset.folder={self.data}", *lists, steps])

    def choose(self, start: Path) -> dict[str, list[str]]:
        """Return the cases that each arm corrects: never held-out ones, never the first six."""
        train = json.loads((self.data / "splits.json").read_text())["train"]
        others = sorted(set(train) - set(self.first))
        ranked = [case.record.case for case in review_results(self.segment(start, others)).cases]
        return {
            "doubtful": ranked[:CORRECTED],
            "random": random.Random(self.wanted.draw).sample(others, CORRECTED),
            "none": [],
        }

    def segment(self, start: Path, cases: list[str]) -> Path:
        """Segment training scans; what is segmented already is not segmented again."""
        scans, results = self.folder / "others", self.folder / "segmented"
        scans.mkdir(parents=True, exist_ok=True)
        for case in cases:
            if not (scans / f"{case}.nii.gz").exists():
                shutil.copy(self.data / "images" / f"{case}.nii.gz", scans)
        segment_folder(scans, start, results)
        return results

    def dice_before(self, cases: list[str], start: Path) -> Dice:
        """Return how well the model drew the cases that it is then taught."""
        masks = self.folder / "segmented" / "cases"
        pairs = [Pair(case, masks / case / "mask.nii.gz", self.data / "labels" / f"{case}.nii.gz") for case in cases]
        return case_dice(evaluate_pairs(pairs, load_model(start).labels))


def keep(study: Study, start: Path, chosen: dict[str, list[str]], dice: dict[str, Dice]) -> None:
    """Write and print what came out."""
    wanted, name = study.wanted, f"rounds_{study.wanted.draw}"
    rows = [[case, *(round(dice[arm][case], 4) for arm in dice)] for case in sorted(dice["before"])]
    write_csv(RESULTS / f"{name}.csv", ["case", *dice], rows)
    record = {
        "mean_dice": {arm: round(fmean(values.values()), 4) for arm, values in dice.items()},
        "gain": {arm: difference(values, dice["before"]) for arm, values in dice.items() if arm != "before"},
        "corrected": {
            arm: {case: round(value, 4) for case, value in study.dice_before(chosen[arm], start).items()}
            for arm in wanted.arms
            if chosen[arm]
        },
        "labelled": study.first,
        "steps": wanted.steps,
        "start": model_digest(start),
        "machine": machine(),
        "versions": package_versions(),
    }
    if {"doubtful", "random"} <= dice.keys():
        record["doubtful_over_random"] = difference(dice["doubtful"], dice["random"])
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{name}: {record['mean_dice']}, doubtful over random {record.get('doubtful_over_random', 'not measured')}")


def plot() -> None:
    """Draw the mean Dice of every draw, before and after."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    styles = {"doubtful": "-", "random": "--", "none": ":"}
    for number, path in enumerate(sorted(RESULTS.glob("rounds_*.json"))):
        means = json.loads(path.read_text())["mean_dice"]
        for arm in (arm for arm in styles if arm in means):
            label = f"draw {path.stem.rpartition('_')[2]}, {arm}"
            axes.plot([0, 1], [means["before"], means[arm]], f"C{number}o{styles[arm]}", label=label)
    axes.set_xticks([0, 1], ["six labels", "and ten corrected cases"])
    axes.set_xlim(-0.2, 1.2)
    axes.set_ylabel("mean Dice of 28 validation cases")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(RESULTS / "rounds.png", dpi=150)


if __name__ == "__main__":
    main()
