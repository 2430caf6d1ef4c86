"""Which six scans to label next? Hippocampus: a model of six labels chooses, twelve labels train, 28 cases measure.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/active_learning.py --runs RUNS --draw 0 [--max-seconds N]

For one draw of six labelled cases: a model is trained on them, each strategy of `medseg next` chooses six of the other
174 training scans, and a new model is trained on the twelve from scratch, with the same number of steps and the same
seed. The draw is also the seed of what is drawn at random. The held-out cases decide nothing. A stopped run goes on, a
finished one is only scored again. Writes results/active_learning_DRAW.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from arms import CONFIGS, labelled_cases  # noqa: E402
from held_out import score  # noqa: E402
from paired import case_dice, difference  # noqa: E402
from scans import real_scans, training_arguments  # noqa: E402

from medseg.config import ExperimentConfig, load_config  # noqa: E402
from medseg.provenance import machine, package_versions  # noqa: E402
from medseg.selection.strategies import STRATEGIES, Strategy  # noqa: E402
from medseg.selection.worklist import SelectionOptions, rank_scans  # noqa: E402
from medseg.training.run import RunOptions, run_training  # noqa: E402

COUNT = 6


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--draw", type=int, default=0, help="number of the draw of six labelled cases, and the seed")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of every model")
    parser.add_argument("--features", type=int, default=24, help="feature maps of the first stage")
    arguments = parser.parse_args()
    data = real_scans("hippocampus") / "hippocampus"
    study = Study(data, arguments)
    first = labelled_cases(data, COUNT, arguments.draw)
    model = study.train("first", first)
    if model is None:
        return
    chosen, dice = {}, {"six labels": case_dice(score(model, data))}
    for strategy in STRATEGIES:
        chosen[strategy] = study.choose(strategy, model, first)
        trained = study.train(strategy, [*first, *chosen[strategy]])
        if trained is None:
            return
        dice[strategy] = case_dice(score(trained, data))
    keep(arguments, chosen, dice)


class Study:
    """One draw: where its runs are, and how long they may take together."""

    def __init__(self, data: Path, arguments: argparse.Namespace) -> None:
        self.data, self.arguments, self.began = data, arguments, time.monotonic()
        self.folder = arguments.runs / f"active_learning_{arguments.draw}"

    def train(self, name: str, cases: list[str]) -> Path | None:
        """Return the model trained on these cases; None when time ran out."""
        limit, spent = self.arguments.max_seconds, time.monotonic() - self.began
        options = RunOptions(
            device="cpu",
            max_seconds=None if limit is None else max(1e-3, limit - spent),
            cache=self.arguments.runs / "cache",
            screen=True,
        )
        return run_training(self.configuration(cases), self.folder / name, options).model

    def configuration(self, cases: list[str]) -> ExperimentConfig:
        return load_config(
            CONFIGS["hippocampus"],
            [
                f"dataset.folder={self.data}",
                f"dataset.train={json.dumps(sorted(cases))}",
                f"network.features={self.arguments.features}",
                f"network.max_features={8 * self.arguments.features}",
                f"training.steps={self.arguments.steps}",
            ],
        )

    def choose(self, strategy: Strategy, model: Path, labelled: list[str]) -> list[str]:
        """Return the scans that a strategy chooses of the training scans; held-out ones can't be chosen."""
        train = json.loads((self.data / "splits.json").read_text())["train"]
        with TemporaryDirectory() as temporary:
            folders = {name: Path(temporary) / name for name in ("labelled", "others")}
            for folder in folders.values():
                folder.mkdir()
            for case in train:
                side = "labelled" if case in labelled else "others"
                shutil.copy(self.data / "images" / f"{case}.nii.gz", folders[side])
            options = SelectionOptions(
                count=COUNT,
                strategy=strategy,
                labelled=folders["labelled"],
                seed=self.arguments.draw,
                device="cpu",
                key=Path(temporary) / "pseudonym.key",
            )
            worklist = rank_scans(folders["others"], self.folder / f"next_{strategy}", model, options)
        return [item.case for item in worklist.ranked]


def keep(arguments: argparse.Namespace, chosen: dict[Strategy, list[str]], dice: dict[str, dict[str, float]]) -> None:
    """Write and print what came out, against drawing at random."""
    gains = {name: difference(values, dice["random"]) for name, values in dice.items() if name != "random"}
    record = {
        "mean_dice": {name: round(sum(values.values()) / len(values), 4) for name, values in dice.items()},
        "gain_over_random": gains,
        "chosen": chosen,
        "cases": dice,
        "steps": arguments.steps,
        "features": arguments.features,
        "machine": machine(),
        "versions": package_versions(),
    }
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"active_learning_{arguments.draw}.json").write_text(json.dumps(record, indent=2) + "\n")
    for name, mean in record["mean_dice"].items():
        print(f"{name}: mean Dice {mean:.4f}, against random {gains.get(name, '')}")


if __name__ == "__main__":
    main()
