"""Take cases through reading, network and writing, three stages at once; a bad case costs only itself.

One thread reads ahead and one writes behind, each by at most one case, so that the network waits for
nobody and memory holds at most three cases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from medseg.batch.faults import fault_of
from medseg.batch.formats import Formats
from medseg.batch.places import check_writable
from medseg.batch.record import MASK, PICTURE, CaseRecord, Geometry, Inputs, finished_record, write_record
from medseg.batch.summary import CaseResult, Failure
from medseg.io.files import atomic_folder
from medseg.io.nifti import write_mask
from medseg.io.scan import read_case, source_files
from medseg.labels import LabelMap
from medseg.measures.features import CaseFeatures
from medseg.measures.intensity import measure_scan
from medseg.measures.measure import MaskMeasures, measure_mask
from medseg.provenance import digest_files, package_versions, timestamp
from medseg.volume import Case, Mask, Volume

if TYPE_CHECKING:
    from medseg.inference.predictor import Prediction, Predictor

T = TypeVar("T")

Picture = Callable[[Volume, Mask, LabelMap, Path], None]
"""Draws scan and mask into a PNG file; given by the caller because drawing lies above this layer."""


@dataclass(frozen=True, slots=True)
class _Read:
    case: Case
    inputs: Inputs
    volume: Volume
    seconds: float


@dataclass(frozen=True, slots=True)
class _Written:
    outputs: dict[str, str]
    not_written: dict[str, str]
    found: MaskMeasures


@dataclass(frozen=True, slots=True)
class Worker:
    """One model at work on cases.

    Attributes
    ----------
    predictor : the loaded model.
    folder : where the cases' folders go.
    model_digest, settings_digest : what, beside the scan, decides a result.
    picture : draws scan and mask; None: no pictures.
    redo : segment again what is already done.
    formats : what is written beside the NIfTI mask.
    """

    predictor: Predictor
    folder: Path
    model_digest: str
    settings_digest: str
    picture: Picture | None = None
    redo: bool = False
    formats: Formats = field(default_factory=Formats)

    @property
    def labels(self) -> LabelMap:
        """The model's labels, with the lesions of this run marked."""
        return self.formats.labels(self.predictor.model.labels)

    def run(self, cases: Iterable[Case]) -> Iterator[CaseResult]:
        """Yield what became of each case, as they end.

        Raises
        ------
        OutputError
            If a result can't be written and nothing else can either: no case would end better.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            writes: deque[Future[CaseResult]] = deque()
            for case, reading in _ahead(reader, self._read, cases):
                ready = self._predicted(_attempt(case, reading.result))
                if isinstance(ready, CaseResult):
                    yield ready
                else:
                    writes.append(writer.submit(_attempt, case, partial(self._write, *ready)))
                while len(writes) > 1:
                    yield self._checked(writes.popleft().result())
            while writes:
                yield self._checked(writes.popleft().result())

    def _read(self, case: Case) -> _Read | CaseResult:
        began = perf_counter()
        files = [file for source in case.images for file in source_files(source)]
        try:
            inputs = Inputs(source=digest_files(files), model=self.model_digest, settings=self.settings_digest)
        except OSError as error:
            return CaseResult(case.id, "rejected", "UNREADABLE", f"{case.id}: can't be read ({error.strerror})")
        record = None if self.redo else finished_record(self.folder / case.id, inputs)
        if record:
            return CaseResult(case.id, "done", record=record, was_done=True)
        volume, _ = read_case(case)
        return _Read(case, inputs, volume, perf_counter() - began)

    def _predicted(self, read: _Read | CaseResult) -> tuple[_Read, Prediction] | CaseResult:
        if isinstance(read, CaseResult):
            return read
        prediction = _attempt(read.case, partial(self.predictor.predict, read.volume))
        return prediction if isinstance(prediction, CaseResult) else (read, prediction)

    def _write(self, read: _Read, prediction: Prediction) -> CaseResult:
        began = perf_counter()
        with atomic_folder(self.folder / read.case.id) as folder:
            source, model = read.case.images[0], self.predictor.model.name
            write_mask(folder / MASK, prediction.mask, source, self.labels)
            found = self._measures(read, prediction)
            not_written = self.formats.write(folder, prediction.mask, self.labels, source, model, found.measures)
            if self.picture:
                self.picture(read.volume, prediction.mask, self.predictor.model.labels, folder / PICTURE)
            written = _Written(_digests(folder), not_written, found)
            seconds = {"read": read.seconds, **prediction.timings, "write": perf_counter() - began}
            record = self._record(read, prediction, written, seconds)
            write_record(record, folder)
        return CaseResult(read.case.id, "done", record=record)

    def _measures(self, read: _Read, prediction: Prediction) -> MaskMeasures:
        is_series = read.case.images[0].kind == "dicom"
        return measure_mask(read.volume, prediction.mask, self.labels, slice_axis=2 if is_series else None)

    def _record(self, read: _Read, prediction: Prediction, written: _Written, seconds: dict[str, float]) -> CaseRecord:
        return CaseRecord(
            case=read.case.id,
            kind=read.case.images[0].kind,
            files=sum(len(source.files) for source in read.case.images),
            inputs=read.inputs,
            model=self.predictor.model.name,
            geometry=Geometry.of(read.volume.grid),
            volumes_ml=written.found.volumes_ml,
            confidence=prediction.confidence,
            flags=tuple(dict.fromkeys(str(flag) for flag in (*read.case.flags, *read.volume.flags))),
            features=CaseFeatures(
                channels=measure_scan(read.volume),
                structures=written.found.structures,
                uncertainty=prediction.uncertainty,
            ),
            seconds={stage: round(time, 4) for stage, time in seconds.items()},
            measures=written.found.measures,
            not_written=written.not_written,
            outputs=written.outputs,
            versions=package_versions(),
            finished=timestamp(),
        )

    def _checked(self, result: CaseResult) -> CaseResult:
        if result.reason == Failure.OUTPUT:
            check_writable(self.folder)
        return result


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file in a folder by its path within."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_files([path]) for path in files}


def _ahead(
    reader: ThreadPoolExecutor, read: Callable[[Case], T], cases: Iterable[Case]
) -> Iterator[tuple[Case, Future[T]]]:
    """Yield each case with its reading, the next case's being under way."""
    pending: deque[tuple[Case, Future[T]]] = deque()
    for case in cases:
        pending.append((case, reader.submit(read, case)))
        if len(pending) > 1:
            yield pending.popleft()
    yield from pending


def _attempt(case: Case, stage: Callable[[], T]) -> T | CaseResult:
    """Return what `stage` returns, or the result of a case that ends with its exception."""
    try:
        return stage()
    except Exception as error:
        fault = fault_of(case.id, error)
        return CaseResult(case.id, fault.status, fault.reason, fault.message)
