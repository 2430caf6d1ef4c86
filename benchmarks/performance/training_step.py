"""What a training step costs: medseg against nnU-Net, same network, patch, batch and strength of augmentation.

    MEDSEG_DATA=FOLDER python benchmarks/performance/training_step.py [--rounds 3] [--steps 10]

Network and batch are nnU-Net's default plan of forty hippocampi: 32 to 256 features, two patches of 40x56x40. nnU-Net
trains in float32 on a CPU, its only way; medseg in what it chooses by itself, bf16 where the processor has it. Writes
results/training_step.json: seconds of every step by contestant and kind (`medseg_step.py`, `nnunet_step.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peers
from prepare import write_dataset

sys.path.append(str(Path(__file__).parents[1]))

from harness import interleave, run, save

HERE = Path(__file__).parent
RESULT = HERE / "results" / "training_step.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps of a kind in a round")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = write_dataset(folder)
        numbers = iter(range(arguments.rounds))

        def ours() -> peers.Command:
            output = folder / f"medseg_{next(numbers)}"
            return [sys.executable, HERE / "medseg_step.py", dataset, output, str(arguments.steps)]

        names = {"medseg": lambda: run(ours())}
        if not arguments.without_peers:
            env = peers.nnunet_env(folder)
            run(peers.nnunet_prepare(), env)
            theirs = [peers.executable("nnunet"), HERE / "nnunet_step.py", str(arguments.steps)]
            names["nnU-Net"] = lambda: run(theirs, env)
        runs = interleave(names, arguments.rounds)
    told = {name: [json.loads(one.output.splitlines()[-1]) for one in ones] for name, ones in runs.items()}
    save(arguments.result, runs, steps={name: merge(parts) for name, parts in told.items()})


def merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the times of all rounds; what is no list of times is equal in all of them."""
    same = ("patch", "batch_size", "features", "precision")
    return {
        name: parts[0][name] if name in same else [round(t, 4) for part in parts for t in part[name]]
        for name in parts[0]
    }


if __name__ == "__main__":
    main()
