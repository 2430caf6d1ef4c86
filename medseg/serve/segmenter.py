"""The model of a server: one inference at a time, results kept as `medseg segment` keeps them."""

from __future__ import annotations

from pathlib import Path
from threading import BoundedSemaphore, Lock

from medseg.batch.job import Job, find_picture
from medseg.batch.opening import open_worker
from medseg.batch.record import MASK, CaseRecord
from medseg.batch.summary import CaseResult, Failure
from medseg.batch.task import Facts, Task
from medseg.catalog.anonymous import without_file_names
from medseg.io.scan import case_files
from medseg.quality.review import ReviewedCase, review_case
from medseg.serve.refusal import DISK_FULL, SERVER_ERROR, TOO_MANY, UNPROCESSABLE, RequestError
from medseg.serve.settings import RESULTS, ServeSettings
from medseg.volume import Case

PICTURE = "medseg.quality.overlay:overlay_png"
STATUSES: dict[str, int] = {Failure.OUTPUT: DISK_FULL, Failure.MODEL_MISMATCH: UNPROCESSABLE}


class Segmenter:
    """Segments cases, one after the other; what is done is not done again while scan, model and settings are the same.

    Raises
    ------
    ModelError, ConfigError
        If the model can't be used.
    """

    def __init__(self, settings: ServeSettings, model: Path) -> None:
        self._settings, self._turn = settings, Lock()
        self._places = BoundedSemaphore(1 + settings.limits.waiting)
        self._cases = settings.output / RESULTS / "cases"
        self._open(model)

    @property
    def facts(self) -> Facts:
        """What is known of the model."""
        return self._facts

    def replace(self, model: Path) -> None:
        """Go on with another model of the same labels, when no inference is under way."""
        with self._turn:
            self._open(model)

    def segment(self, case: Case) -> CaseRecord:
        """Return the record of a segmented case.

        Raises
        ------
        RequestError
            429 if too many wait; else what went wrong with this scan.
        """
        if not self._places.acquire(blocking=False):
            raise RequestError(TOO_MANY, "too many inferences wait for their turn; ask again later")
        try:
            with self._turn:
                (result,) = self._worker.run([Task(case)])
        finally:
            self._places.release()
        return _done(case, result)

    def mask(self, case: Case) -> Path:
        """Return where the mask of a segmented case is."""
        return self._cases / case.id / MASK

    def review(self, record: CaseRecord) -> ReviewedCase:
        """Return what is unusual about a result, and how soon a person should look at it."""
        return review_case(record, self._facts.labels, self._facts.reference)

    def _open(self, model: Path) -> None:
        job = Job(model=model, folder=self._cases, config=self._settings.segmenting)
        self._worker, self._facts = open_worker(job, find_picture(PICTURE))
        self.path = model


def _done(case: Case, result: CaseResult) -> CaseRecord:
    if result.record:
        return result.record
    message = without_file_names(result.message, case_files(case), case.id)
    refused = UNPROCESSABLE if result.status == "rejected" else SERVER_ERROR
    raise RequestError(STATUSES.get(result.reason, refused), message)
