"""Some damaged files of every kind, those that once broke something, and proof that the watch sees what breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "benchmarks" / "ingest" / "fuzz.py"

FAILED_ONCE = {
    "nifti": [562, 1155, 1467, 3199],  # nibabel's check of an infinite vox_offset: OverflowError
    "dicom": [1552, 1613],  # an element that claims 2 GiB, which Python allocates before it reads: MemoryError
}

MISBEHAVING = f"""
import os, signal, sys
sys.path.insert(0, {str(FUZZ.parent)!r})
import numpy as np
import fuzz

def misbehave(folder, seed):
    if seed == 101:
        raise ValueError("unforeseen")
    if seed == 102:
        os.kill(os.getpid(), signal.SIGSEGV)
    if seed == 103:
        while True:
            pass
    if seed == 104:
        np.ones(2 * fuzz.MEMORY_BYTES, np.uint8)
    return "read"

fuzz.CHECKS["fake"] = misbehave
outcomes, failures = fuzz.fuzz("fake", range(100, 107))
print(dict(outcomes), [(seed, text.split(":")[0]) for seed, text in failures])
"""


def python(*words: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )


@pytest.mark.parametrize(("kind", "seeds"), [("nifti", 150), ("dicom", 100)])
def test_damaged_files_end_in_a_sound_result_or_a_named_reason(kind, seeds):
    done = python(FUZZ, kind, "--seeds", seeds, "--first", 50_000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{seeds} seeds, 0 failures" in done.stdout
    assert " read" in done.stdout  # not all are damaged beyond reading


@pytest.mark.parametrize(("kind", "seeds"), FAILED_ONCE.items())
def test_what_failed_once_is_mended(kind, seeds):
    done = python(FUZZ, kind, "--only", *seeds)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_watch_sees_exceptions_crashes_hangs_and_allocations():
    done = python("-c", MISBEHAVING)
    failures = [(101, "ValueError"), (102, "exit status -11"), (103, "hang"), (104, "MemoryError")]
    assert done.stdout.splitlines()[-1:] == [f"{ {'read': 3} } {failures}"], done.stdout + done.stderr
