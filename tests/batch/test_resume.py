"""A run that is killed at any moment is continued by the same command, and ends as one that was not.

What is equal: every mask and picture to the byte, the tables, and the records but for what is true of one run
only: times, memory, number of attempts.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import write_scan

OF_THE_RUN = {"seconds", "finished", "memory_mb", "attempts"}
KILLS = [("supervisor", 0.9), ("worker", 1.2), ("both", 1.6), ("supervisor", 1.9)]
"""Whom, and after how many seconds on the average."""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a run into a folder, in a process of its own, whose workers have no network."""
    for number in range(10):
        write_scan(tmp_path / "scans" / f"slow_infer_{number}.nii.gz", -1 - number)
    path = [str(Path(__file__).parent), *sys.path]

    def start(output: Path) -> subprocess.Popen:
        code = (
            f"import sys; sys.path[:] = {path!r}\n"
            "from pathlib import Path\n"
            "from medseg.batch.segment_folder import segment_folder\n"
            f"scans, output = Path({str(tmp_path / 'scans')!r}), Path({str(output)!r})\n"
            "segment_folder(scans, Path('m'), output, picture='faulty:draw')"
        )
        return subprocess.Popen([sys.executable, "-c", code])

    return start


def test_killed_runs_end_as_one_that_was_not(start, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    seed = time.time_ns()
    chance, ends = random.Random(seed), []
    for whom, after in KILLS:
        run = start(killed)
        time.sleep(after * chance.uniform(0.5, 1.5))
        kill(run, whom)
        ends.append(run.wait())
        assert ends[-1] in ((0,) if whom == "worker" else (0, -9)), f"seed {seed}"  # 0: it was faster than the kill
        check_nothing_is_half_done(killed)
    assert ends[0] == -9, f"seed {seed}: the first run was not at work any more"
    assert start(killed).wait() == 0
    assert contents(killed) == contents(whole), f"seed {seed}"
    assert not [path for folder in (killed, killed / "cases") for path in folder.glob(".*")]


def kill(run: subprocess.Popen, whom: str) -> None:
    """Kill the supervisor, its worker if there is one already, or both."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    if whom != "supervisor":
        subprocess.run(["kill", "-9", *children], check=False, stderr=subprocess.DEVNULL)
    if whom != "worker":
        run.kill()


def check_nothing_is_half_done(output: Path) -> None:
    """What is to be seen of a case is all of it."""
    for folder in (output / "cases").glob("[!.]*"):
        record = json.loads((folder / "case.json").read_text())
        assert set(record["outputs"]) | {"case.json"} == {path.name for path in folder.iterdir()}


def contents(output: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for folder in (output / "cases").iterdir():
        record = json.loads((folder / "case.json").read_text())
        found[folder.name] = {name: value for name, value in record.items() if name not in OF_THE_RUN}
        found |= {f"{folder.name}/{name}": (folder / name).read_bytes() for name in record["outputs"]}
    rows = csv.DictReader((output / "cases.csv").read_text().splitlines())
    found["cases.csv"] = [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]
    found["measures.csv"] = (output / "measures.csv").read_text()
    return found
