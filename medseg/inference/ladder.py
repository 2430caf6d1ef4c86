"""Out of memory is not the end of a scan: try again with less, and say so.

Each rung needs less memory than the one before, and is slower:

1. `FULL`: as configured;
2. `ONE_WINDOW`: one window in a forward pass;
3. `STITCH_ON_CPU`: the GPU keeps only the window it works on;
4. `CPU`: the GPU does nothing.

The mask may differ between rungs in single voxels, where two labels are all but equally likely, because
arithmetic is rounded in another order; so the rung is part of a case's record.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from medseg.text import Word

logger = logging.getLogger(__name__)

T = TypeVar("T")

WORDS = (
    "can't allocate memory", "could not create a primitive", "could not create a memory object",
    "CUDA error: out of memory", "ALLOC_FAILED", "unable to find an engine",
)  # fmt: skip
"""What torch's allocator, oneDNN, CUDA, cuBLAS and cuDNN say when memory is lacking, in errors of a general type."""

LOST = (
    "illegal memory access", "unspecified launch failure", "device-side assert", "misaligned address",
    "illegal instruction", "launch timed out", "hardware stack error", "invalid program counter",
    "uncorrectable ECC error", "CUDA error: unknown error",
)  # fmt: skip
"""What CUDA says when a process can't use the GPU any more and has to be started again (its runtime's cudaError)."""

_thread = threading.local()


class Rung(Word):
    """How much memory a scan may take."""

    FULL = "full"
    ONE_WINDOW = "one_window"
    STITCH_ON_CPU = "stitch_on_cpu"
    CPU = "cpu"


def ladder(windows: int, device: str) -> tuple[Rung, ...]:
    """Return the rungs that differ for so many windows in a forward pass on a device ("cpu" or "cuda").

    Examples
    --------
    >>> [str(rung) for rung in ladder(2, "cpu")]
    ['full', 'one_window']
    """
    smaller = (Rung.ONE_WINDOW,) if windows > 1 else ()
    elsewhere = (Rung.STITCH_ON_CPU, Rung.CPU) if device == "cuda" else ()
    return (Rung.FULL, *smaller, *elsewhere)


def climb_down(attempt: Callable[[Rung], T], rungs: tuple[Rung, ...]) -> tuple[T, Rung]:
    """Return what `attempt` gives on the first rung for which memory suffices, and that rung.

    Raises
    ------
    Exception
        Whatever `attempt` raises but for want of memory, and that too on the last rung.
    """
    for rung in rungs[:-1]:
        try:
            return _try(attempt, rung), rung
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            logger.debug("not enough memory on rung %s", rung, exc_info=error)
        _release()  # here the error is gone, whose traceback held the tensors
    return _try(attempt, rungs[-1]), rungs[-1]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was lacking: Python's and numpy's own, and torch's, of CPU and GPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(words in str(error) for words in WORDS)


def is_gpu_lost(error: BaseException) -> bool:
    """Whether an exception says that this process can't use its GPU any more."""
    return any(words in str(error) for words in LOST)


def _try(attempt: Callable[[Rung], T], rung: Rung) -> T:
    """Attempt in this thread, or in another one: oneDNN does nothing new in a thread that memory was lacking in."""
    if getattr(_thread, "is_spoilt", False):
        with ThreadPoolExecutor(1, thread_name_prefix="medseg-again") as other:
            return other.submit(attempt, rung).result()
    try:
        return attempt(rung)
    except Exception as error:
        _thread.is_spoilt = is_out_of_memory(error)
        raise


def _release() -> None:
    gc.collect()
    torch = sys.modules.get("torch")  # without it, as in tests of a plain predictor, there is nothing of its to free
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
