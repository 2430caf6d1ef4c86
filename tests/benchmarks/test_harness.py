"""The harness of the benchmarks: it must count what children take, and find exponents."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from itertools import count
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "harness.py"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("harness", PATH)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


PARENT = """
import subprocess, sys, time
code = "held = bytearray(b'1') * 80_000_000; print(flush=True); import time; time.sleep(60)"
children = [subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
for child in children:
    child.stdout.readline()  # it holds its memory now
time.sleep(1)
for child in children:
    child.kill()
subprocess.run([sys.executable, "-S", "-c", "for _ in range(5_000_000): pass"])
"""

FORKED = """
import os, time
held = bytearray(b"1") * 80_000_000
child = os.fork()
time.sleep(1)
"""


def test_memory_and_processor_time_of_children_count(harness):
    one = harness.run(python(PARENT))
    assert 160 < one.peak_mb < 260
    assert one.cpu_seconds > 0.05
    assert one.seconds >= 1
    assert max(mb for _, mb in one.memory) == one.peak_mb


def test_shared_pages_count_once(harness):
    assert 80 < harness.run(python(FORKED)).peak_mb < 130  # not 160


def test_a_failed_command_ends_the_benchmark_with_its_words(harness):
    with pytest.raises(SystemExit, match="ended with 3:\nno such scan"):
        harness.run(python("print('no such scan'); raise SystemExit(3)"))
    assert harness.run(python("raise SystemExit(3)"), check=False).code == 3


def test_commands_run_without_thread_limits(harness, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = harness.run(
        python("import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ['SIDE'])"), {"SIDE": "a"}
    )
    assert shown.output.split() == ["None", "a"]


def test_contestants_take_turns(harness):
    order = []

    def contestant(name):
        return lambda: order.append(name) or harness.Run(1.0, 1.0, 1.0, 0, (), "")

    runs = harness.interleave({"a": contestant("a"), "b": contestant("b")}, 3)
    assert order == ["a", "b"] * 3
    assert {name: len(ones) for name, ones in runs.items()} == {"a": 3, "b": 3}


def test_runs_before_a_stop_are_kept(harness):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    one, before = harness.Run(1.0, 1.0, 1.0, 0, (), ""), signal.getsignal(signal.SIGTERM)
    assert harness.interleave({"a": lambda: one, "b": stop}, 2) == {"a": [one]}
    assert signal.getsignal(signal.SIGTERM) == before


def test_kept_runs_are_added_to(harness, tmp_path):
    numbers = count()

    def runs(*names):
        return {name: [harness.Run(float(next(numbers)), 0.0, 0.0, 0, (), "")] for name in names}

    path = tmp_path / "results" / "one.json"
    harness.save(path, runs("a", "b"), cases=3)
    harness.save(path, runs("a", "c"), keep=True, cases=3)
    saved = json.loads(path.read_text())
    assert {name: [row["seconds"] for row in rows] for name, rows in saved["runs"].items()} == {
        "a": [0.0, 2.0],
        "b": [1.0],
        "c": [3.0],
    }
    assert saved["cases"] == 3
    assert saved["machine"]["cores"] >= 1
    harness.save(path, runs("a"))
    assert json.loads(path.read_text())["runs"] == {"a": [{"seconds": 4.0, "cpu_seconds": 0.0, "peak_mb": 0.0}]}


@pytest.mark.parametrize(("fixed", "factor", "exponent"), [(3.0, 0.5, 1.0), (0.0, 2e-3, 1.5), (10.0, 1e-4, 0.67)])
def test_growth_is_found_again(harness, fixed, factor, exponent):
    sizes = [128, 192, 256, 384, 512]
    growth = harness.fit_growth(sizes, [fixed + factor * size**exponent for size in sizes])
    assert growth.exponent == pytest.approx(exponent, abs=0.011)
    assert growth.at(300) == pytest.approx(fixed + factor * 300**exponent, rel=1e-3)


def test_what_does_not_grow_is_fixed(harness):
    growth = harness.fit_growth([1, 2, 4, 8], [5.0, 5.0, 5.0, 5.0])
    assert growth.fixed == pytest.approx(5.0)
    assert growth.factor == pytest.approx(0.0, abs=1e-9)


def test_spread(harness):
    assert harness.Spread.of([4.0, 1.0, 2.0]) == harness.Spread(2.0, 1.0, 4.0)
