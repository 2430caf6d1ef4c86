"""A queue of CTs, as a hospital has it: seconds a case in steady state, and how much of the time the device is at work.

    python benchmarks/performance/segment_queue.py --device cuda                    # 20 CTs of 512x512x256, 14 classes
    python benchmarks/performance/segment_queue.py --cases 6 --shape 256 256 128    # an eighth of each, for a CPU

Scan and model are those of `big_case.py`, the scan copied under as many names. One `medseg segment` does them all: the
worker reads and prepares the next scan and writes the last one while the device infers. Steady state is the later half
of the cases, from end to end; the device's share is the part of it that inferring took (forward, stitching, restoring):
the device itself was at work for no more than that. Then the network alone on the windows of one scan. Writes
results/segment_queue_DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import peers
import torch
from big_case import STAGES, STEPS, add_case_options, case_options, make_case, time_forward

sys.path.append(str(Path(__file__).parents[1]))

from harness import run, save

INFERRING = ("forward", "stitch", "restore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20, help="2 at least")
    add_case_options(parser, classes=14)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the model's short training")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", type=Path, help="keep scan and model there, and use what is there already")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    result = arguments.result or Path(__file__).parent / "results" / f"segment_queue_{arguments.device}.json"
    with TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "model").exists():
            make_case(folder, **case_options(arguments), steps=arguments.steps)
        queue, output = copies(folder, arguments.cases), folder / "output"
        one = run([*peers.medseg_segment(queue, folder / "model", output), "--device", arguments.device])
        facts = steady_state(output / "cases")
        facts["network_alone"] = time_forward(folder, torch.device(arguments.device))
    print(json.dumps(facts, indent=1))
    save(result, {"medseg segment": [one]}, shape=arguments.shape, classes=arguments.classes, **facts)


def copies(folder: Path, count: int) -> Path:
    """Return a new folder with the scan under so many names."""
    queue = folder / "queue"
    shutil.rmtree(queue, ignore_errors=True)
    queue.mkdir()
    for number in range(count):
        shutil.copy(folder / "scans" / "big.nii.gz", queue / f"ct_{number:03}.nii.gz")
    return queue


def steady_state(cases: Path) -> dict[str, Any]:
    """Return what the records of the later half of the cases tell."""
    paths = sorted(cases.glob("*/case.json"), key=lambda path: path.stat().st_mtime)
    records = [json.loads(path.read_text()) for path in paths]
    middle = len(paths) // 2
    later = [record["seconds"] for record in records[middle:]]
    elapsed = paths[-1].stat().st_mtime - paths[middle - 1].stat().st_mtime
    inferring = sum(seconds[stage] for seconds in later for stage in INFERRING)
    return {
        "cases": len(records),
        "seconds_a_case": elapsed / len(later),
        "inferring_share": inferring / elapsed,
        "stages_s": {stage: median(seconds.get(stage, 0.0) for seconds in later) for stage in STAGES},
        "memory_mb": {kind: max(record["memory_mb"][kind] for record in records) for kind in records[0]["memory_mb"]},
        "rungs": sorted({record["rung"] for record in records}),
    }


if __name__ == "__main__":
    main()
