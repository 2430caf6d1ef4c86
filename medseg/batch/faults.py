"""Say of an exception what it means for the one case that it ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from medseg.batch.summary import Failure, Status
from medseg.errors import MedsegError, OutputError, ScanError
from medseg.inference.ladder import is_gpu_lost, is_out_of_memory
from medseg.text import printable

logger = logging.getLogger(__name__)

SHOW = "`medseg --debug` shows it in full"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a case ended that was not done: status, reason code, and the same as a sentence."""

    status: Status
    reason: str
    message: str


def fault_of(case: str, error: Exception) -> Fault:
    """Return how `case` ends with `error`.

    An unexpected exception is named by type and place only: its text could quote a header. Control
    characters of hostile file names stay out of the sentence.
    """
    if isinstance(error, ScanError):
        return Fault("rejected", str(error.code), printable(str(error)))
    if isinstance(error, OutputError):
        return Fault("failed", Failure.OUTPUT, printable(str(error)))
    if isinstance(error, MedsegError):
        return Fault("failed", Failure.MODEL_MISMATCH, printable(str(error)))
    logger.debug("case %s", case, exc_info=error)
    if is_out_of_memory(error):
        message = f"{case}: not enough memory; free some, or take another machine for it"
        return Fault("failed", Failure.OUT_OF_MEMORY, message)
    if is_gpu_lost(error):
        message = f"{case}: the GPU gave up on it, {place_of(error)}; run again, with --device cpu if that is no better"
        return Fault("failed", Failure.GPU_LOST, message)
    return Fault("failed", Failure.UNEXPECTED, f"{case}: unexpected error, {place_of(error)}; {SHOW}")


def place_of(error: BaseException) -> str:
    """Return the type of an exception and the line that raised it."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f" in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}"
