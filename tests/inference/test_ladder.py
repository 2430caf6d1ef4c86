"""Out of memory: tried again with less, as long as there is less."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from medseg.config import InferenceConfig
from medseg.inference.ladder import Rung, climb_down, is_out_of_memory, ladder

FULL, ONE, STITCH, CPU = Rung.FULL, Rung.ONE_WINDOW, Rung.STITCH_ON_CPU, Rung.CPU


class Attempt:
    """Raises on the rungs above `enough`."""

    def __init__(self, enough: Rung | None, error: Exception) -> None:
        self.enough, self.error, self.tried = enough, error, []

    def __call__(self, rung: Rung) -> str:
        self.tried.append(rung)
        if rung is not self.enough:
            raise self.error
        return "mask"


@pytest.mark.parametrize(
    ("device", "batch", "rungs"),
    [
        ("cpu", 2, (FULL, ONE)),
        ("cpu", 1, (FULL,)),
        ("cuda", 4, (FULL, ONE, STITCH, CPU)),
        ("cuda", 1, (FULL, STITCH, CPU)),
    ],
)
def test_only_rungs_that_differ_are_tried(device, batch, rungs):
    assert ladder(InferenceConfig(window_batch=batch), device) == rungs


@pytest.mark.parametrize("enough", [FULL, ONE, STITCH, CPU])
@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory")])
def test_the_first_rung_that_suffices_is_taken(enough, error):
    rungs = (FULL, ONE, STITCH, CPU)
    attempt = Attempt(enough, error)
    assert climb_down(attempt, rungs) == ("mask", enough)
    assert attempt.tried == list(rungs[: rungs.index(enough) + 1])


def test_the_last_rung_fails_for_good():
    attempt = Attempt(None, MemoryError("the last"))
    with pytest.raises(MemoryError, match="the last"):
        climb_down(attempt, (FULL, ONE))
    assert attempt.tried == [FULL, ONE]


def test_another_error_is_not_tried_again():
    attempt = Attempt(None, ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        climb_down(attempt, (FULL, ONE))
    assert attempt.tried == [FULL]


def test_what_a_failed_rung_held_is_free_before_the_next():
    held = []

    def attempt(rung: Rung) -> str:
        if rung is FULL:
            big = np.zeros(10)
            held.append(weakref.ref(big))
            raise MemoryError
        gc.collect()
        assert held[0]() is None
        return "mask"

    assert climb_down(attempt, (FULL, ONE))[1] is ONE


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (np._core._exceptions._ArrayMemoryError((1,), np.dtype("f4")), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_that_say_that_memory_is_lacking(error, is_memory):
    assert is_out_of_memory(error) is is_memory


LIMITED = """
import torch
from medseg.inference.hardware import limit_memory
from medseg.inference.ladder import is_out_of_memory
assert limit_memory(1.0)
torch.zeros(10**7)
try:
    torch.zeros(10**9)
except Exception as error:
    print("refused" if is_out_of_memory(error) else repr(error))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a process's own data")
def test_a_limited_process_is_refused_memory_as_the_ladder_expects_it():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"
