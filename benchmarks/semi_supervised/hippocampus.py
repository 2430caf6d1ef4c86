"""Train hippocampus models from a few labelled scans, with and without the unlabelled ones, and score them.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/hippocampus.py --runs RUNS --arm NAME --draw 6_0

Arms are configurations (`ARMS`), draws are sets of labelled training cases (`labelled_cases`); all other training
cases are unlabelled. Every arm has the same recipe; steps are fixed beforehand; scored are the final averaged weights
as the model folder delivers them, through the folder segmentation that users call, on the 28 held-out cases, which
decide nothing. A stopped run goes on, a finished one is only scored again. Writes results/ARM_DRAW.csv (a row a case
and structure) and results/ARM_DRAW.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path
from statistics import median

from medseg.config import ExperimentConfig, load_config
from medseg.provenance import machine, package_versions
from medseg.quality.evaluate import Evaluation
from medseg.quality.tables import write_scores
from medseg.training.run import RunOptions, run_training

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from held_out import score, step_seconds  # noqa: E402

CONFIG = HERE.parents[1] / "configs/hippocampus.yaml"
STEPS = 1000

MIXED = ("unlabelled.method=mix-teacher", "unlabelled.labelled_weight=0.5")
ARMS: dict[str, tuple[str, ...]] = {
    "supervised": (),
    "supervised_longer": (f"training.steps={round(1.6 * STEPS)}",),
    "mix_teacher": MIXED,
    "mix_teacher_no_paste": (*MIXED, "unlabelled.paste=0"),
    "mix_teacher_no_entropy": (*MIXED, "unlabelled.entropy_weight=false"),
    "mix_teacher_threshold": (*MIXED, "unlabelled.threshold=0.7", "unlabelled.adaptive_threshold=true"),
    "mix_teacher_gate": (*MIXED, "unlabelled.prototype_gate=true"),
    "mix_teacher_prototypes": (*MIXED, "unlabelled.prototype_share=0.3"),
    "mix_teacher_affinity": (*MIXED, "unlabelled.affinity_weight=0.1"),
}
"""Overrides of each arm; `supervised_longer` takes about the time that the mixed steps take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--arm", choices=[*ARMS], required=True)
    parser.add_argument("--draw", required=True, help="labelled cases and number of the draw, such as 6_0")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of an arm that doesn't say otherwise")
    parser.add_argument("--max-seconds", type=float, help="stop with a checkpoint after this time")
    arguments = parser.parse_args()
    if not os.environ.get("MEDSEG_DATA"):
        sys.exit("set MEDSEG_DATA to the folder that holds hippocampus/")
    data = Path(os.environ["MEDSEG_DATA"]) / "hippocampus"
    cases = json.dumps(labelled_cases(data, *map(int, arguments.draw.split("_"))))
    overrides = [f"dataset.folder={data}", f"dataset.train={cases}", f"training.steps={arguments.steps}"]
    config = load_config(CONFIG, [*overrides, *ARMS[arguments.arm]])
    name = f"{arguments.arm}_{arguments.draw}"
    options = RunOptions(device="cpu", max_seconds=arguments.max_seconds, cache=arguments.runs / "cache", screen=True)
    run = run_training(config, arguments.runs / name, options)
    if run.model is not None:
        keep(name, config, arguments.runs / name, score(run.model, data))


def labelled_cases(data: Path, count: int, draw: int) -> list[str]:
    """Return the labelled cases of a draw: draw 0 is the dataset's own list, others are drawn by their number."""
    splits = json.loads((data / "splits.json").read_text())
    if draw == 0:
        return list(splits[f"labelled_{count}"])
    order = sorted(splits["train"])
    random.Random(draw).shuffle(order)
    return sorted(order[:count])


def keep(name: str, config: ExperimentConfig, run_folder: Path, evaluation: Evaluation) -> None:
    """Write the results of one arm and draw."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    write_scores(evaluation.scores, results / f"{name}.csv")
    record = {
        "labelled": config.dataset.train,
        "steps": config.training.steps,
        "unlabelled": config.unlabelled.model_dump(mode="json"),
        "median_step_s": round(median(step_seconds(run_folder)), 3),
        "mean_dice": evaluation.mean_dice,
        "dice": {target.target: target.dice.mean for target in evaluation.targets if target.dice},
        "machine": machine(),
        "versions": package_versions(),
    }
    (results / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{name}: mean Dice {evaluation.mean_dice:.4f} after {config.training.steps} steps")


if __name__ == "__main__":
    main()
