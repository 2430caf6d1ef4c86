"""Train from a few labelled scans, with and without the unlabelled ones, and score on scans that no run saw.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/arms.py --data hippocampus --runs RUNS --arm NAME --draw 6_0

Arms are configurations (`ARMS`), draws are sets of labelled training cases (`labelled_cases`); all other training
cases are unlabelled. Every arm has the same recipe; steps are fixed beforehand; scored are the final averaged weights
as the model folder delivers them, through the folder segmentation that users call, on the held-out cases, which
decide nothing. A stopped run goes on, a finished one is only scored again. Writes results/DATA_ARM_DRAW.csv (a row a
case and structure) and results/DATA_ARM_DRAW.json; `page.py` puts them together.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from held_out import held_out_cases, score, step_seconds, training_pool  # noqa: E402
from scans import real_scans, training_arguments  # noqa: E402

from medseg.config import ExperimentConfig, load_config  # noqa: E402
from medseg.provenance import machine, package_versions  # noqa: E402
from medseg.quality.evaluate import Evaluation  # noqa: E402
from medseg.quality.tables import write_scores  # noqa: E402
from medseg.training.run import RunOptions, run_training  # noqa: E402

CONFIGS = {name: HERE.parents[1] / f"configs/{name}.yaml" for name in ("hippocampus", "left_atrium")}
STEPS = 1500
LONG = {"hippocampus": 4000, "left_atrium": 3000}
"""Steps of the arms called long."""

NETWORK = ("network.features=16", "network.max_features=128")
"""A network small enough for many runs on a CPU."""

FINE = "fine_left_atrium"
SIZES = {
    **dict.fromkeys(CONFIGS, NETWORK),
    FINE: ("plan.spacing=null", "plan.patch=[112,112,80]", "network.features=32", "network.max_features=120"),
}
"""What each benchmark is scaled to; the left atrium also at its own resolution, for a GPU."""

MIXED = ("unlabelled.method=mix-teacher", "unlabelled.labelled_weight=0.5")
ARMS: dict[str, tuple[str, ...]] = {
    "supervised": (),
    "supervised_longer": (f"training.steps={round(1.25 * STEPS)}",),
    "supervised_long": (),
    "mix_teacher": MIXED,
    "mix_teacher_long": MIXED,
    "mix_teacher_from_the_start": (*MIXED, "unlabelled.labelled_first=0", "unlabelled.ramp=0.4"),
    "mix_teacher_no_paste": (*MIXED, "unlabelled.paste=0"),
    "mix_teacher_no_entropy": (*MIXED, "unlabelled.entropy_weight=false"),
    "mix_teacher_threshold": (*MIXED, "unlabelled.threshold=0.7", "unlabelled.adaptive_threshold=true"),
    "mix_teacher_gate": (*MIXED, "unlabelled.prototype_gate=true"),
    "mix_teacher_prototypes": (*MIXED, "unlabelled.prototype_share=0.3"),
    "mix_teacher_affinity": (*MIXED, "unlabelled.affinity_weight=0.1"),
    "student": ("distillation.width=1", f"training.steps={round(0.4 * STEPS)}"),
}
"""Overrides of each arm; `supervised_longer` takes about the time that the mixed steps take, `_long` arms have more."""

TEACHERS = {"student": ("mix_teacher", "supervised")}
"""Arms that go on from the first of other arms' models, and learn on all scans the mean of what these answer."""


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--data", choices=[*SIZES], required=True)
    parser.add_argument("--arm", choices=[*ARMS], required=True)
    parser.add_argument("--draw", required=True, help="labelled cases and number of the draw, such as 6_0")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of an arm that doesn't say otherwise")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, or one GPU such as cuda:1")
    arguments = parser.parse_args()
    data = real_scans("hippocampus", "left_atrium") / arguments.data.removeprefix("fine_")
    config = configuration(data, arguments.arm, arguments.draw, arguments.steps, SIZES[arguments.data])
    runs = {arm: arguments.runs / f"{arguments.data}_{arm}_{arguments.draw}" for arm in ARMS}
    config, name = taught(config, arguments.arm, runs), runs[arguments.arm].name
    options = RunOptions(
        device=arguments.device, max_seconds=arguments.max_seconds, cache=arguments.runs / "cache", screen=True
    )
    run = run_training(config, arguments.runs / name, options)
    if run.model is not None:
        keep(name, config, arguments.runs / name, score(run.model, data))


def configuration(data: Path, arm: str, draw: str, steps: int, sizes: Sequence[str] = NETWORK) -> ExperimentConfig:
    """Return an arm's experiment on a draw."""
    lists = {
        "dataset.train": labelled_cases(data, *map(int, draw.split("_"))),
        "dataset.validation": held_out_cases(data),
    }
    overrides = [f"{field}={json.dumps(cases)}" for field, cases in lists.items()]
    steps = LONG[data.name] if arm.endswith("_long") else steps
    fixed = [f"dataset.folder={data}", f"training.steps={steps}", *sizes]
    return load_config(CONFIGS[data.name], [*fixed, *overrides, *ARMS[arm]])


def taught(config: ExperimentConfig, arm: str, runs: Mapping[str, Path]) -> ExperimentConfig:
    """Return the experiment with the teachers of its arm, if it has any; `runs` are the run folders of all arms."""
    teachers = tuple(runs[teacher] / "model" for teacher in TEACHERS.get(arm, ()))
    return config.with_changes(distillation={"teachers": teachers})


def labelled_cases(data: Path, count: int, draw: int) -> list[str]:
    """Return the labelled cases of a draw: draw 0 is the dataset's own list, others are drawn by their number."""
    own = json.loads((data / "splits.json").read_text()).get(f"labelled_{count}")
    if draw == 0 and own:
        return list(own)
    order = training_pool(data)
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
