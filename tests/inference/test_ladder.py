"""Out of memory: tried again with less, as long as there is less."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import current_thread

import numpy as np
import pytest
import torch

from medseg.config import InferenceConfig
from medseg.inference.ladder import Rung, climb_down, is_out_of_memory, ladder
from medseg.inference.predictor import Predictor
from medseg.labels import LabelMap
from medseg.networks.build import build_network
from medseg.networks.model import Model
from medseg.outputs import NetworkOutput
from medseg.volume import Volume

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
    assert ladder(batch, device) == rungs


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


def test_after_want_of_memory_a_thread_tries_no_more_itself():
    """oneDNN does nothing new in a thread that memory was lacking in, also for the scans that follow."""
    tried = []

    def attempt(rung: Rung) -> str:
        tried.append(current_thread())
        if len(tried) == 1:
            raise RuntimeError("could not create a primitive")
        return "mask"

    def worker() -> None:
        assert climb_down(attempt, (FULL, ONE)) == ("mask", ONE)
        assert climb_down(attempt, (FULL,)) == ("mask", FULL)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(worker).result()
    assert tried[0] not in tried[1:]


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
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_that_say_that_memory_is_lacking(error, is_memory):
    assert is_out_of_memory(error) is is_memory


class Hungry(torch.nn.Module):
    """A network that has memory for one window at a time, and answers class 1 above 0."""

    def forward(self, image: torch.Tensor) -> NetworkOutput:
        if len(image) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return NetworkOutput(torch.cat([torch.zeros_like(image), image], 1))


def test_a_scan_that_does_not_fit_as_configured_is_segmented_window_by_window(make_plan, labels, threshold, oblique):
    grid = oblique((40, 33, 30))
    volume = Volume(np.random.default_rng(0).uniform(-1, 1, (1, *grid.shape)).astype(np.float32), grid)
    config = InferenceConfig(precision="bf16", window_batch=2)
    short = Predictor(Model((Hungry(),), make_plan(), labels), config).predict(volume)
    ample = Predictor(Model((threshold,), make_plan(), labels), config).predict(volume)
    assert (short.rung, ample.rung) == (ONE, FULL)
    np.testing.assert_array_equal(short.mask.array, ample.mask.array)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("megabytes", "rung"), [(20_000, FULL), (300, STITCH), (40, CPU)])
def test_a_gpu_that_is_full_leaves_work_to_the_cpu(make_plan, oblique, megabytes, rung):
    """On a real GPU of which torch may have only so much: stitching takes 330 MB here, the answer for a window 64."""
    labels = LabelMap.parse({f"structure {value}": value for value in range(1, 61)})
    grid = oblique((160, 150, 140))
    plan = make_plan(patch=(64, 64, 64))
    model = Model((build_network(plan, labels.outputs),), plan, labels)
    volume = Volume(np.random.default_rng(0).normal(0, 1, (1, *grid.shape)).astype(np.float32), grid)
    config = InferenceConfig(precision="float32", overlap=0.0)
    device = torch.device("cuda", 0)
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, megabytes * 1e6 / whole), device)
    try:
        found = Predictor(model, config, device).predict(volume)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert list(Rung).index(found.rung) >= list(Rung).index(rung)
    expected = Predictor(model, config, torch.device("cpu")).predict(volume)
    assert (found.mask.array == expected.mask.array).mean() > 0.999


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
