"""Run commands in turn and keep what they cost: shared by the benchmarks.

Contestants take turns (A B A B), so that a drift of the machine meets them alike; medians and the range of all runs are
reported, never a best run. Memory is that of the whole process tree, sampled.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil

from medseg import SPINS
from medseg.provenance import machine, package_versions, timestamp

SAMPLE_SECONDS = 0.1
"""Least time between two looks at the memory."""

SAMPLE_SHARE = 0.04
"""Most of a core that looking may take: the kernel walks every page of a process to say how many are shared."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Left out of the commands' environment: each is measured as it sets its threads by itself. All wait for each other as
medseg's do (`medseg.SPINS`): a thread that spins while a neighbour has its core turns a little noise into a lot.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one command cost.

    Attributes
    ----------
    seconds, cpu_seconds : wall time, and processor time of the process and all below it that were waited for.
    peak_mb : highest memory of the tree, MB; pages that processes share are counted once.
    code : exit code.
    memory : (seconds, MB) samples.
    output : what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    code: int
    memory: tuple[tuple[float, float], ...]
    output: str


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, *, check: bool = True) -> Run:
    """Run a command to its end.

    Parameters
    ----------
    env : variables beside those of this process.
    check : end this program with the command's last words if it fails.
    """
    kept = {name: value for name, value in os.environ.items() if name not in THREAD_SETTINGS}
    environment = {**kept, "GOMP_SPINCOUNT": SPINS, **(env or {})}
    samples: list[tuple[float, float]] = []
    ended = Event()
    with TemporaryFile("w+") as printed:
        before, began = _children_cpu(), time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        watcher = Thread(target=_watch, args=(process.pid, began, samples, ended), daemon=True)
        watcher.start()
        try:
            code = process.wait()
        finally:
            _end_tree(process.pid)
            ended.set()
            watcher.join()
        seconds, cpu_seconds = time.perf_counter() - began, _children_cpu() - before
        printed.seek(0)
        output = printed.read()
    if check and code:
        raise SystemExit(f"{' '.join(map(str, command[:4]))} ... ended with {code}:\n{output[-2000:]}")
    return Run(seconds, cpu_seconds, max((mb for _, mb in samples), default=0.0), code, tuple(samples), output)


def interleave(contestants: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Run every contestant once a round, in their order, and print each run as it ends.

    Being stopped (SIGTERM, Ctrl-C) ends the run at work; those before it are returned, so that hours aren't lost.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    runs: dict[str, list[Run]] = {}
    with suppress(KeyboardInterrupt):
        for number in range(rounds):
            for name, contestant in contestants.items():
                one = contestant()
                runs.setdefault(name, []).append(one)
                costs = f"{one.seconds:8.2f} s {one.cpu_seconds:8.2f} CPU s {one.peak_mb:7.0f} MB"
                print(f"{number + 1}/{rounds} {name:<44} {costs}", flush=True)
    signal.signal(signal.SIGTERM, before)
    return runs


def peer_arguments(description: str | None, result: Path) -> argparse.Namespace:
    """Parse `--rounds`, `--keep`, `--without-peers` and `--result` of a script that compares commands."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="add to the runs that the result has")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--result", type=Path, default=result)
    return parser.parse_args()


def tree_memory_mb(process: int) -> float:
    """Return the memory of a process and all below it, MB, shared pages counted once; 0 of one that has ended."""
    try:
        root = psutil.Process(process)
        return sum(map(_memory_mb, [root, *root.children(recursive=True)]))
    except psutil.Error:
        return 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        numbers = list(values)
        return cls(median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True, slots=True)
class Growth:
    """How a cost grows with a size: ``fixed + factor * size ** exponent``."""

    fixed: float
    factor: float
    exponent: float

    def at(self, size: float) -> float:
        """Return the cost of a size."""
        return self.fixed + self.factor * size**self.exponent


def fit_growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """Fit a growth to costs, by least squares of the relative error; no part is negative.

    The exponent is searched from 0.3 to 3 in steps of 0.01: lower ones can't be told from the fixed part.
    """
    x, y = np.asarray(sizes, float), np.asarray(costs, float)
    best: tuple[float, Growth] | None = None
    for exponent in np.arange(0.3, 3.001, 0.01):
        grown = (x / x.max()) ** exponent
        for columns in ([np.ones_like(x), grown], [np.zeros_like(x), grown]):
            matrix = np.stack(columns, 1) / y[:, None]
            solution = np.linalg.lstsq(matrix, np.ones_like(y), rcond=None)[0]
            error = float(np.square(matrix @ solution - 1).sum())
            if solution.min() >= 0 and (best is None or error < best[0]):
                fixed, factor = map(float, solution)
                best = error, Growth(fixed, factor / float(x.max()) ** float(exponent), float(exponent))
    assert best is not None  # without the fixed part a positive factor always fits
    return best[1]


def save(
    path: Path, runs: Mapping[str, Sequence[Run]], *, keep: bool = False, replace: bool = False, **facts: Any
) -> None:
    """Write runs with machine, versions, load and time.

    Parameters
    ----------
    keep : add them to those that the file has.
    replace : put them in place of those that the file has under the same names.
    """
    old = json.loads(path.read_text(encoding="utf-8"))["runs"] if (keep or replace) and path.exists() else {}
    if replace:
        old = {name: rows for name, rows in old.items() if name not in runs}
    rows = {name: [*old.get(name, []), *map(_row, runs.get(name, []))] for name in {**old, **runs}}
    described = {"date": timestamp(), "load": os.getloadavg(), "machine": machine(), "versions": package_versions()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "runs": rows, **described}, indent=1) + "\n", encoding="utf-8")


def _end_tree(process: int) -> None:
    """Kill what an interrupted run left: it would disturb the next one."""
    try:
        root = psutil.Process(process)
        left = [*root.children(recursive=True), root]
    except psutil.Error:
        return
    for one in left:
        with suppress(psutil.Error):
            one.kill()


def _row(one: Run) -> dict[str, float]:
    row = asdict(one)
    return {name: round(row[name], 2) for name in ("seconds", "cpu_seconds", "peak_mb")}


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _watch(process: int, began: float, samples: list[tuple[float, float]], ended: Event) -> None:
    pause = 0.0
    while not ended.wait(pause):
        moment, used = time.perf_counter(), time.thread_time()
        samples.append((moment - began, tree_memory_mb(process)))
        pause = max(SAMPLE_SECONDS, (time.thread_time() - used) / SAMPLE_SHARE)


def _memory_mb(process: psutil.Process) -> float:
    try:
        info = process.memory_full_info()
        return getattr(info, "pss", info.rss) / 1e6
    except psutil.Error:
        return 0.0
