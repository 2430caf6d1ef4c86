"""Measure whole batches as a user runs them: ``medseg segment`` with start-up, pictures and report.

    MEDSEG_DATA=FOLDER python benchmarks/batch/measure.py small [--rounds 5]
    python benchmarks/batch/measure.py mixed [--cases 200]
    python benchmarks/batch/measure.py workers [--cases 40]

small: 20 hippocampus MRs, and one of them, in worker processes and in one process; interleaved, medians.
mixed: NIfTI and DICOM of many sizes, one in ten broken; which are done, and the memory of all processes over time.
workers: cases a minute with one worker and with two. Each writes NAME.json, mixed also mixed.png, beside this file.
The model is the committed one of the hippocampus. On a machine that does other things the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.io.nifti import write_volume
from medseg.provenance import machine, package_versions
from medseg.volume import Volume

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))

from harness import Run, run  # noqa: E402
from scans import real_scans  # noqa: E402

MODEL = HERE.parents[1] / "sample_data" / "models" / "hippocampus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["small", "mixed", "workers"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int)
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.what == "small":
            result = measure_small(folder, arguments.rounds)
        elif arguments.what == "mixed":
            result = measure_mixed(folder, arguments.cases or 200)
        else:
            result = measure_workers(folder, arguments.cases or 40, arguments.rounds)
    result |= {"machine": machine(), "versions": package_versions()}
    (HERE / f"{arguments.what}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name not in ("machine", "versions")}, indent=2))


def measure_small(folder: Path, rounds: int) -> dict[str, object]:
    """Return wall times of 20 cases and of one, s; the settings take turns, so that a drift meets them alike."""
    images = sorted((real_scans("hippocampus") / "hippocampus" / "images").glob("*.nii.gz"))[:20]
    times: dict[str, list[float]] = {}
    for count in (20, 1):
        (folder / f"scans_{count}").mkdir()
        for image in images[:count]:
            shutil.copy(image, folder / f"scans_{count}")
    for _ in range(rounds):
        for count in (20, 1):
            for name, options in (("default", []), ("one process", ["--workers", "0"])):
                seconds = segment(folder / f"scans_{count}", folder / "out", options).seconds
                times.setdefault(f"{count} cases, {name}", []).append(round(seconds, 2))
    return {"seconds": {name: {"median": median(values), "all": values} for name, values in times.items()}}


def measure_mixed(folder: Path, count: int) -> dict[str, object]:
    """Return how many sound and broken cases ended how, and the memory over time; draws it."""
    broken = write_mixed(folder / "scans", count)
    one = segment(folder / "scans", folder / "out", [])
    seconds, memory = one.seconds, one.memory
    ends: dict[str, Counter[str]] = {"sound": Counter(), "broken": Counter()}
    sources = {row["case"]: row["source"] for row in read_table(folder / "out" / "sources.csv")}
    for row in read_table(folder / "out" / "cases.csv"):
        ends["broken" if sources[row["case"]] in broken else "sound"][f"{row['status']} {row['reason']}".strip()] += 1
    draw_memory(memory, HERE / "mixed.png")
    working = [mb for moment, mb in memory if 0.1 * seconds < moment < 0.95 * seconds]
    quarters = [round(float(np.median(part)), 1) for part in np.array_split(working, 4)]
    return {
        "seconds": round(seconds, 1),
        "exit_code": one.code,
        "ends": {kind: dict(counts) for kind, counts in ends.items()},
        "cases_a_minute": round(60 * count / seconds, 1),
        "memory_mb": {"highest": round(one.peak_mb, 1), "median_by_quarter": quarters},
    }


def measure_workers(folder: Path, count: int, rounds: int) -> dict[str, object]:
    """Return the cases a minute with one and two workers, and in one process."""
    write_mixed(folder / "scans", count, broken_share=0)
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for workers in ("1", "2", "0"):
            seconds = segment(folder / "scans", folder / "out", ["--workers", workers]).seconds
            rates.setdefault(workers, []).append(round(60 * count / seconds, 1))
    return {"cases": count, "cases_a_minute": {name: {"median": median(v), "all": v} for name, v in rates.items()}}


def segment(scans: Path, output: Path, options: list[str]) -> Run:
    """Run the command into a new folder."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "medseg", "segment", scans, "-m", MODEL, "-o", output, *options]
    return run(command, check=False)


def write_mixed(folder: Path, count: int, broken_share: float = 0.1) -> set[str]:
    """Write scans of many sizes, three quarters NIfTI and one quarter DICOM; returns the places of the broken ones."""
    rng, broken = np.random.default_rng(0), set()
    wrong = set(rng.permutation(count)[: round(broken_share * count)].tolist())
    for number in range(count):
        shape = tuple(rng.integers(30, 72, 3).tolist())
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        image = rng.normal(200, 60, (1, *shape)).astype(np.float32)
        volume = Volume(image, Grid(shape, affine))
        place = folder / f"series_{number:03}" if number % 4 == 3 else folder / f"scan_{number:03}.nii.gz"
        if number % 4 == 3:
            write_series(volume, place, seed=number, patient=f"Phantom^{number}")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_volume(place, volume)
        if number in wrong:
            broken.add(place.name)
            spoil(place, number)
    return broken


def spoil(place: Path, number: int) -> None:
    """Break a scan: of a series take a slice out, of a file cut the end, empty it, or make it text."""
    if place.is_dir():
        sorted(place.iterdir())[7].unlink()
        return
    whole = place.read_bytes()
    place.write_bytes((whole[: len(whole) // 2], b"", b"This is no scan.")[number % 3])


def read_table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def draw_memory(memory: Sequence[tuple[float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*memory, strict=True), linewidth=1)
    axes.set(xlabel="seconds", ylabel="memory of all processes, MB", ylim=(0, None))
    axes.set_title("medseg segment on mixed cases, one in ten broken")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
