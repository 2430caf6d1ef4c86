"""Train the hippocampus models and score them on the 28 held-out cases.

    MEDSEG_DATA=FOLDER python benchmarks/hippocampus/measure.py --runs RUNS [--arm all] [--max-seconds N]

Arms: `all` (180 labelled cases, 3D), `six` (the six of `labelled_6`, 3D, same configuration), `all_2d`.
A run folder that is finished is only scored again; a stopped one goes on. Scored is the model folder as it
is delivered (final averaged weights in fp16) through the folder segmentation that users call; the
validation cases decide nothing. Writes results/ARM.csv (one row a case and structure) and results/ARM.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from medseg.config import ExperimentConfig, load_config
from medseg.networks.model import load_model
from medseg.provenance import machine, package_versions
from medseg.quality.evaluate import Evaluation
from medseg.quality.tables import write_scores
from medseg.training.run import RunOptions, run_training

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from held_out import score, step_seconds  # noqa: E402
from scans import real_scans, training_arguments  # noqa: E402

CONFIGS = HERE.parents[1] / "configs"

ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "all": ("hippocampus.yaml", ()),
    "six": ("hippocampus.yaml", ("dataset.train=labelled_6", "training.steps=1500")),
    "all_2d": ("hippocampus_2d.yaml", ()),
}
"""Configuration file and overrides of each arm."""


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--arm", choices=[*ARMS, "each"], default="each")
    arguments = parser.parse_args()
    data = real_scans("hippocampus") / "hippocampus"
    for arm in ARMS if arguments.arm == "each" else [arguments.arm]:
        file, overrides = ARMS[arm]
        config = load_config(CONFIGS / file, [f"dataset.folder={data}", *overrides])
        run_folder = arguments.runs / arm
        if not (run_folder / "model").exists():
            run_training(config, run_folder, RunOptions(device="cpu", max_seconds=arguments.max_seconds, screen=True))
        if (run_folder / "model").exists():
            keep(arm, config, run_folder, score(run_folder / "model", data))


def keep(arm: str, config: ExperimentConfig, run_folder: Path, evaluation: Evaluation) -> None:
    """Write the results of one arm."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    write_scores(evaluation.scores, results / f"{arm}.csv")
    record = {
        "mean_dice": evaluation.mean_dice,
        "dice": {target.target: target.dice.model_dump() for target in evaluation.targets if target.dice},
        "hd95_mm": {target.target: target.hd95_mm.model_dump() for target in evaluation.targets if target.hd95_mm},
        "training_cases": len(load_model(run_folder / "model").provenance["training_cases"]),
        "steps": config.training.steps,
        "median_step_s": round(median(step_seconds(run_folder)), 3),
        "machine": machine(),
        "versions": package_versions(),
    }
    (results / f"{arm}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{arm}: mean Dice {evaluation.mean_dice:.4f} after {config.training.steps} steps")


if __name__ == "__main__":
    main()
