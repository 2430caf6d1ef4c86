"""Does pre-training help when six scans are labelled? Hippocampus, from random and from pre-trained weights.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/pretraining.py --runs RUNS --draw 6_0 [--max-seconds N]

Both arms have the same configuration, labelled cases, seed and number of training steps; the second starts from
weights that restored hidden blocks of all 180 training scans, labelled or not. Scored are the final averaged weights
on the 28 held-out cases, which decide nothing and are not pre-trained on. A stopped run goes on, a finished one is
only scored again. Writes results/pretraining_DRAW.csv and .json; `--features`, `--steps` and `--pretraining-steps`
make a shorter measurement, which the json says.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from arms import CONFIGS, labelled_cases  # noqa: E402
from held_out import score  # noqa: E402
from paired import case_dice, difference  # noqa: E402
from scans import real_scans, training_arguments  # noqa: E402

from medseg.config import ExperimentConfig, load_config  # noqa: E402
from medseg.io.tables import write_csv  # noqa: E402
from medseg.networks.pretrained import load_pretrained  # noqa: E402
from medseg.provenance import machine, package_versions  # noqa: E402
from medseg.training.pretraining import run_pretraining  # noqa: E402
from medseg.training.run import RunOptions, run_training  # noqa: E402


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--draw", default="6_0", help="labelled cases and number of the draw, such as 6_0")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of both arms")
    parser.add_argument("--pretraining-steps", type=int, default=2000)
    parser.add_argument("--features", type=int, default=24, help="feature maps of the first stage")
    arguments = parser.parse_args()
    data = real_scans("hippocampus") / "hippocampus"
    config = configuration(data, arguments)
    dice = train_arms(config, data, arguments)
    if dice is not None:
        keep(arguments, config, dice)


def configuration(data: Path, arguments: argparse.Namespace) -> ExperimentConfig:
    cases = json.dumps(labelled_cases(data, *map(int, arguments.draw.split("_"))))
    return load_config(
        CONFIGS["hippocampus"],
        [
            f"dataset.folder={data}",
            f"dataset.train={cases}",
            f"network.features={arguments.features}",
            f"network.max_features={8 * arguments.features}",
            f"training.steps={arguments.steps}",
            f"pretraining.steps={arguments.pretraining_steps}",
        ],
    )


Scores = dict[str, dict[str, float]]
"""Dice by arm and case."""


def train_arms(config: ExperimentConfig, data: Path, arguments: argparse.Namespace) -> Scores | None:
    """Return the held-out cases' Dice of both arms; None when time ran out."""
    began, folder = time.monotonic(), arguments.runs / f"pretraining_{arguments.draw}"

    def options(init: Path | None = None) -> RunOptions:
        spent = time.monotonic() - began
        left = None if arguments.max_seconds is None else max(1e-3, arguments.max_seconds - spent)
        return RunOptions(device="cpu", max_seconds=left, init=init, cache=arguments.runs / "cache", screen=True)

    pretrained = run_pretraining(config, folder / "first", options()).folder
    if pretrained is None:
        return None
    dice = {}
    for arm, init in (("scratch", None), ("pretrained", pretrained)):
        run = run_training(config, folder / arm, options(init))
        if run.model is None:
            return None
        dice[arm] = case_dice(score(run.model, data))
    return dice


def keep(arguments: argparse.Namespace, config: ExperimentConfig, dice: Scores) -> None:
    """Write and print what came out."""
    results, name = HERE / "results", f"pretraining_{arguments.draw}"
    rows = [(case, round(dice["scratch"][case], 4), round(dice["pretrained"][case], 4)) for case in dice["scratch"]]
    write_csv(results / f"{name}.csv", ["case", "scratch", "pretrained"], rows)
    first = load_pretrained(arguments.runs / name / "first" / "pretrained")
    gain, low, high = difference(dice["pretrained"], dice["scratch"])
    record = {
        "mean_dice": {arm: round(sum(d.values()) / len(d), 4) for arm, d in dice.items()},
        "gain": gain,
        "interval": [low, high],
        "explained": first.explained,
        "scans": len(first.provenance["scans"]),
        "steps": config.training.steps,
        "pretraining": config.pretraining.model_dump(mode="json"),
        "features": config.network.features,
        "machine": machine(),
        "versions": package_versions(),
    }
    (results / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{name}: {record['mean_dice']}, gain {gain:+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
