"""What a server does, without a word of HTTP: its studies, model, review folder and background work together."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.batch.places import check_places, check_writable
from medseg.batch.record import CaseRecord
from medseg.batch.task import Facts
from medseg.catalog.documents import parse_labels, read_object
from medseg.catalog.identity import load_key
from medseg.errors import OutputError, ScanError
from medseg.io.files import write_text
from medseg.io.nifti import read_mask
from medseg.labels import LabelMap
from medseg.networks.model import model_digest
from medseg.provenance import digest_file, medseg_version
from medseg.review.dataset import read_original
from medseg.review.folder import ReviewCase
from medseg.serve.desk import Desk
from medseg.serve.files import Rendering
from medseg.serve.numbering import label_numbers
from medseg.serve.ranking import STRATEGIES, Ranking
from medseg.serve.refusal import NOT_FOUND, RequestError
from medseg.serve.segmenter import Segmenter
from medseg.serve.settings import INCOMING, LESSONS, RESULTS, REVIEW, ServeSettings
from medseg.serve.studies import Studies, open_studies
from medseg.serve.sweep import Sweep
from medseg.serve.teacher import Pupil, Teacher
from medseg.volume import Case, Mask

IN_USE = "model.json"
"""Names the model that took the place of the one that the server was started with."""

logger = logging.getLogger("medseg.serve")


@dataclass(slots=True)
class Service:
    """Everything behind the routes; any thread may call.

    Attributes
    ----------
    segmenter, teacher : None without a model.
    """

    settings: ServeSettings
    studies: Studies
    desk: Desk
    ranking: Ranking
    segmenter: Segmenter | None = None
    teacher: Teacher | None = None
    sweep: Sweep = field(init=False)
    _checksums: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sweep = Sweep(self.segment)

    @property
    def incoming(self) -> Path:
        """Where uploads are kept while they are looked at."""
        return self.settings.output / INCOMING

    @property
    def rendering(self) -> Rendering:
        """Makes files of masks."""
        return Rendering(self.desk.folder, self.desk.labels, self.incoming)

    def segment(self, case: Case) -> CaseRecord:
        """Return what the model says of a case; raises `RequestError` (404) without a model."""
        segmenter = self._working()
        record = segmenter.segment(case)
        self.desk.draw(case, record, segmenter.mask(case), segmenter.review(record))
        return record

    def mask(self, case: Case) -> Mask:
        """Return what the model drew of a case that is segmented; raises `RequestError` (404) without a model."""
        return read_mask(self._working().mask(case))

    def facts_of(self, model: str) -> Facts:
        """Return what is known of the model of this name; raises `RequestError` (404) if none is called so."""
        facts = self._working().facts
        if model != facts.name:
            raise RequestError(NOT_FOUND, f"there is no such model; there is {facts.name}")
        return facts

    def sweep_all(self) -> None:
        """Begin to segment the studies that nobody has labelled, unless that is under way."""
        if self.segmenter and not self.sweep.running:
            self.sweep.start(self.segmenter.facts.name, self.unlabelled())

    def unlabelled(self) -> list[Case]:
        """Return the cases without a label."""
        return [case for case in self.studies.cases.values() if not self.desk.is_judged(case.id)]

    def next_case(self, strategy: str, client: str) -> ReviewCase | None:
        """Return the case to look at next, its scan written; None if all are labelled."""
        while case := self.ranking.next(strategy, client):
            try:
                return self.desk.entry(case)
            except ScanError as error:
                logger.warning("%s is left out (%s)", case.id, error.code)
                self.ranking.leave_out(case.id)
        return None

    def checksum(self, entry: ReviewCase) -> str:
        """Return the SHA-256 of the file that is shown of a case."""
        known = self._checksums.get(entry.case)
        if known is None or known[0] != entry.source:
            known = self._checksums[entry.case] = (entry.source, digest_file(self.desk.folder / entry.shown))
        return known[1]

    def info(self) -> dict[str, Any]:
        """Return what clients ask first: labels, models, trainers, strategies, and how far the work is."""
        labels = list(label_numbers(self.desk.labels))
        told: dict[str, Any] = {
            "name": "medseg",
            "description": "medical image segmentation; docs/serve.md",
            "version": medseg_version(),
            "labels": labels,
            "models": {},
            "trainers": {},
            "strategies": {name: {"description": STRATEGIES[name]} for name in self.ranking.strategies},
            "scoring": {},
            "train_stats": {},
            "datastore": self.statistics(),
        }
        if self.segmenter and self.teacher:
            name = self.segmenter.facts.name
            told["models"][name] = {
                "type": "segmentation",
                "labels": label_numbers(self.desk.labels),
                "dimension": 3,
                "description": "segments every structure that it knows",
                "config": {},
            }
            words = "fine-tunes the model on what is labelled; a worse one is not taken"
            told["trainers"][name] = {"description": words, "config": self.teacher.offered}
            told["train_stats"][name] = self.teacher.progress()
        return told

    def statistics(self) -> dict[str, Any]:
        """Return how many cases there are, and how many are labelled."""
        known = [self.desk.known(case) for case in self.studies.cases]
        final = sum(self.desk.is_judged(case) for case in self.studies.cases)
        original = sum(bool(entry and entry.prediction) for entry in known)
        return {"total": len(known), "completed": final, "label_tags": {"final": final, "original": original}}

    def promote(self, model: Path) -> None:
        """Go on with another model, now and after a restart; or, if that can't be noted, with the one before."""
        if self.segmenter and self.settings.model:
            before = self.segmenter.path
            self.segmenter.replace(model)
            place = {"instead_of": model_digest(self.settings.model), "model": str(model.resolve())}
            try:
                write_text(self.settings.output / IN_USE, json.dumps(place, indent=1) + "\n")
            except OutputError:
                self.segmenter.replace(before)
                raise
            if self.settings.ahead:
                self.sweep.stop()  # it has looked at some with the model before
                self.sweep_all()

    def _working(self) -> Segmenter:
        if not self.segmenter:
            raise RequestError(NOT_FOUND, "the server has no model; it serves scans and takes labels")
        return self.segmenter

    def close(self) -> None:
        """End what goes on in the background."""
        self.sweep.stop()
        if self.teacher:
            self.teacher.stop()


@contextmanager
def open_service(settings: ServeSettings) -> Iterator[Service]:
    """Give a server's service; nothing of it goes on when the block ends.

    Raises
    ------
    MedsegError
        If studies, model, labels or output folder can't be used.
    """
    check_places(settings.studies, settings.output)
    check_writable(settings.output / RESULTS / "cases")
    shutil.rmtree(settings.output / INCOMING, ignore_errors=True)  # of a server that was killed
    segmenter = Segmenter(settings, model_in_use(settings)) if settings.model else None
    labels = segmenter.facts.labels if segmenter else _labels(settings.labels)
    with open_studies(settings, segmenter.facts.channels if segmenter else 1) as studies:
        key = load_key(settings.batch.key)
        desk = Desk(settings.output / REVIEW, labels, key, segmenter.facts.name if segmenter else "")
        if settings.dataset:
            read_original(settings.dataset, desk.review)  # a wrong one is told now, not after people have labelled
        desk.recall(studies.cases.values())
        service = Service(settings, studies, desk, Ranking(studies, desk), segmenter)
        if segmenter:
            (settings.output / LESSONS).mkdir(exist_ok=True)
            service.teacher = Teacher(settings, Pupil.of(segmenter.path), service.promote)
            if settings.ahead:
                service.sweep_all()
        try:
            yield service
        finally:
            service.close()


def model_in_use(settings: ServeSettings) -> Path:
    """Return the folder of the model to begin with: the given one, or the one that took its place here."""
    given = settings.model or Path()
    path = settings.output / IN_USE
    if path.is_file():
        place: Mapping[str, Any] = read_object(path)
        if place.get("instead_of") == model_digest(given) and Path(str(place.get("model"))).is_dir():
            return Path(str(place["model"]))
    return given


def _labels(path: Path | None) -> LabelMap:
    return parse_labels(read_object(path or Path()), str(path))
