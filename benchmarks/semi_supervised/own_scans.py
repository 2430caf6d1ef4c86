"""What do unlabelled scans bring for themselves? A supervised and a mixed model on the scans that had no masks.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/own_scans.py SUPERVISED MIXED --data hippocampus --draw 6_0

The two are model folders of one draw of `arms.py`. The mixed model has seen the scans, neither has seen their masks:
so it goes where a group segments the rest of its own scans, and `arms.py` measures on scans that are new to both.
Writes results/own_scans_DATA_DRAW.csv, a row a case, and .json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from arms import CONFIGS, labelled_cases  # noqa: E402
from held_out import score, training_pool  # noqa: E402
from paired import case_dice, difference  # noqa: E402
from scans import real_scans  # noqa: E402

from medseg.io.tables import write_csv  # noqa: E402
from medseg.networks.model import load_model  # noqa: E402
from medseg.provenance import machine, package_versions  # noqa: E402

ARMS = ("supervised", "mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for arm in ARMS:
        parser.add_argument(arm, type=Path, help="its model folder")
    parser.add_argument("--data", choices=[*CONFIGS], required=True)
    parser.add_argument("--draw", required=True, help="labelled cases and number of the draw, such as 6_0")
    arguments = parser.parse_args()
    data = real_scans(arguments.data) / arguments.data
    models = {arm: getattr(arguments, arm) for arm in ARMS}
    labelled = labelled_cases(data, *map(int, arguments.draw.split("_")))
    steps = {arm: steps_on(labelled, model) for arm, model in models.items()}
    cases = sorted(set(training_pool(data)) - set(labelled))
    dice = {arm: case_dice(score(model, data, cases)) for arm, model in models.items()}
    keep(data.name, arguments.draw, steps, dice)


def steps_on(labelled: list[str], model: Path) -> int:
    """Return a model's training steps; ends unless it learnt from these labelled cases and no others."""
    config = load_model(model).provenance["config"]
    if sorted(config["dataset"]["train"]) != labelled:
        sys.exit(f"{model} did not learn from the labelled cases of this draw")
    return int(config["training"]["steps"])


def keep(data: str, draw: str, steps: dict[str, int], dice: dict[str, dict[str, float]]) -> None:
    """Write and print what came out."""
    name = f"own_scans_{data}_{draw}"
    cases = sorted(dice["mixed"])
    rows = [(case, *(round(dice[arm][case], 4) for arm in ARMS)) for case in cases]
    write_csv(HERE / "results" / f"{name}.csv", ["case", *ARMS], rows)
    gain, low, high = difference(dice["mixed"], dice["supervised"])
    record = {
        "data": data,
        "draw": draw,
        "scans": len(cases),
        "steps": steps,
        "mean_dice": {arm: round(fmean(values.values()), 4) for arm, values in dice.items()},
        "worst": {arm: round(min(values.values()), 4) for arm, values in dice.items()},
        "gain": gain,
        "interval": [low, high],
        "machine": machine(),
        "versions": package_versions(),
    }
    (HERE / "results" / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{name}: {record['mean_dice']}, gain {gain:+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
