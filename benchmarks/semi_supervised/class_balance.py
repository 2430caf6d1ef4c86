"""Does the balanced loss help small structures? The same short training with either loss, on phantoms of the abdomen.

    python benchmarks/semi_supervised/class_balance.py --runs RUNS

The liver has about a hundred times the volume of the tumours in it. Twelve synthetic CTs train, twelve others are
scored; both losses get the same steps, patches and seeds. A finished run is only read again. Writes
results/class_balance.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from medseg.config import ExperimentConfig
from medseg.phantom.dataset import SampleCounts, make_sample_data
from medseg.provenance import machine, package_versions
from medseg.training.held_out import dice_by_target
from medseg.training.run import RunOptions, run_training

HERE = Path(__file__).parent
LOSSES, SEEDS, STEPS = ("dice_ce", "ga"), (0, 1, 2), 240
TRAIN, HELD_OUT = 12, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the data and the run folders")
    runs = parser.parse_args().runs
    data = runs / "data"
    if not data.exists():
        make_sample_data(data, seed=7, counts=SampleCounts(labelled=TRAIN + HELD_OUT, unlabelled=0, test=1))
    scores: dict[str, list[dict[str, float | None]]] = {loss: [] for loss in LOSSES}
    for seed, loss in product(SEEDS, LOSSES):
        scores[loss].append(train(data / "train", runs, loss, seed))
    table = {loss: summary(by_seed) for loss, by_seed in scores.items()}
    record = {"dice": table, "seeds": scores, "steps": STEPS, "machine": machine(), "versions": package_versions()}
    results = HERE / "results" / "class_balance.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(record, indent=2) + "\n")
    for loss, row in table.items():
        print(loss, ", ".join(f"{name} {m:.3f} ± {sd:.3f}" for name, (m, sd) in row.items()))


def train(data: Path, runs: Path, loss: str, seed: int) -> dict[str, float | None]:
    """Return the mean Dice of each structure over the held-out cases."""
    run = run_training(configuration(data, loss, seed), runs / f"{loss}_{seed}", RunOptions(device="cpu"))
    dice = dice_by_target(run.scores)
    print(loss, seed, dice, flush=True)
    return dice


def configuration(data: Path, loss: str, seed: int) -> ExperimentConfig:
    held_out = [f"case_{number:02d}" for number in range(TRAIN + 1, TRAIN + HELD_OUT + 1)]
    return ExperimentConfig.model_validate(
        {
            "dataset": {"folder": data, "modality": "ct", "validation": held_out},
            "plan": {"spacing": [6.0, 6.0, 6.0], "patch": [40, 40, 24], "batch": 2},
            "network": {"features": 8, "max_features": 64},
            "training": {
                "steps": STEPS,
                "seed": seed,
                "loss": loss,
                "learning_rate": 0.003,
                "warmup_steps": 20,
                "ema_decay": 0.98,
                "foreground": 0.5,
            },
        }
    )


def summary(by_seed: list[dict[str, float | None]]) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation over seeds."""
    names = by_seed[0]
    columns = {name: [dice[name] or 0.0 for dice in by_seed] for name in names}
    return {name: (mean(values), stdev(values)) for name, values in columns.items()}


if __name__ == "__main__":
    main()
