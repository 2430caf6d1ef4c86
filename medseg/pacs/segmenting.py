"""The model at work on one study after the other; its worker process stays, so that torch loads once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from medseg.batch.engine import Engine, open_engine
from medseg.batch.formats import DICOM_MASK, REPORT
from medseg.batch.job import Job
from medseg.batch.run import Request, run_batch
from medseg.batch.summary import CaseResult, Failure, RunSummary, Status
from medseg.errors import ReasonCode, WorkerError
from medseg.pacs.settings import ListenConfig
from medseg.pacs.study import Problem, Study, StudyRecord, flush_tree

CASES = "cases"

MAY_PASS: tuple[Status, ...] = ("failed", "crashed")
"""How a series ends that is tried again. Not one that took too long: it would hold up the others as long again."""


class Segmenter(AbstractContextManager["Segmenter"]):
    """A model that is kept open.

    Parameters
    ----------
    work : folder for the results of the study in hand, wiped before each.

    Raises
    ------
    ModelError, ConfigError
        On entering, if model or device can't be used.
    """

    def __init__(self, config: ListenConfig, work: Path) -> None:
        self._config, self._work = config, work
        self._engine: Engine | None = None
        self._opened = ExitStack()

    def __enter__(self) -> Segmenter:
        self._open().facts()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _open(self) -> Engine:
        if self._engine is None:
            job = Job(model=self._config.model, folder=self._work / CASES, config=self._config.segment)
            self._engine = self._opened.enter_context(open_engine(job, None))
        return self._engine

    def _close(self) -> None:
        self._engine = None
        self._opened.close()

    def segment(self, study: Study, *, is_last_try: bool) -> StudyRecord:
        """Segment what the rules choose of a study into its ``results/``; returns its record, safely on disk.

        Parameters
        ----------
        is_last_try : take what can be had, though a series failed for a reason that may pass.

        Raises
        ------
        MedsegError, OSError
            If the study can't be segmented as a whole; the next one gets another worker.
        WorkerError
            If a series failed for a reason that may pass, such as a want of memory, and this is not the last try.
        """
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.rmtree(study.results, ignore_errors=True)
        try:
            summary = run_batch(self._open(), Request(study.scans, self._work, self._config.segment))
        except Exception:  # what is left in the worker's hands would come up in the next study
            self._close()
            raise
        if not is_last_try:
            _check_whole(summary.results)
        send = tuple(_files(summary.results, self._work))
        problems = tuple(_problems(summary.results))
        flush_tree(self._work)
        os.rename(self._work, study.results)
        why = {"reason": "", "message": "", "failed_in": ""} if send else _nothing(summary, problems)
        return study.note(send=send, problems=problems, tries=0, next_try=0.0, **why)


def _check_whole(results: Iterable[CaseResult]) -> None:
    """Refuse to go on without a series that another try may have; what the scan or the model forbids stays so."""
    for result in results:
        if result.status in MAY_PASS and result.reason != Failure.MODEL_MISMATCH:
            raise WorkerError(result.message)


def _files(results: Iterable[CaseResult], folder: Path) -> Iterable[str]:
    """Yield the DICOM results of all cases, the masks before the reports that refer to them."""
    done = [result.case for result in results if result.is_done]
    for name in (DICOM_MASK, REPORT):
        for case in done:
            path = f"{CASES}/{case}/{name}"
            if (folder / path).exists():
                yield path


def _problems(results: Iterable[CaseResult]) -> Iterable[Problem]:
    for result in results:
        if result.reason:
            yield Problem(case=result.case, reason=result.reason, message=result.message)
        for name, why in result.record.not_written.items() if result.record else ():
            code, _, words = why.partition(": ")
            yield Problem(case=result.case, reason=code, message=f"no {name}: {words}")


def _nothing(summary: RunSummary, problems: tuple[Problem, ...]) -> dict[str, str]:
    """Return why there is nothing to send, as fields of the record; that nothing was found is no failure."""
    done = {result.case for result in summary.results if result.is_done}
    # EMPTY is also said of a scan that was refused because it is blank
    faults = [problem for problem in problems if problem.case not in done or problem.reason != ReasonCode.EMPTY]
    if problems:
        worst = (faults or problems)[0]
        return {"reason": worst.reason, "message": worst.message, "failed_in": "complete" if faults else ""}
    left_out = ", ".join(f"{count} {reason}" for reason, count in summary.left_out.items()) or "none"
    message = f"no series of the study is one to segment (files left out: {left_out})"
    return {"reason": "NO_SERIES", "message": message, "failed_in": "complete"}
