"""One model at work on cases: read, prepare, infer, write; a bad case costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from medseg.batch.faults import fault_of
from medseg.batch.formats import Formats
from medseg.batch.pipeline import WRITERS, Stages, run_stages
from medseg.batch.record import MASK, PICTURE, CaseRecord, Geometry, Inputs, finished_record, write_record
from medseg.batch.summary import CaseResult
from medseg.batch.task import Task, Tell
from medseg.io.files import atomic_folder
from medseg.io.nifti import write_mask
from medseg.io.scan import case_files, read_case
from medseg.labels import LabelMap
from medseg.measures.features import CaseFeatures
from medseg.measures.intensity import measure_scan
from medseg.measures.measure import MaskMeasures, measure_mask
from medseg.provenance import digest_files, package_versions, timestamp
from medseg.volume import Case, Volume

if TYPE_CHECKING:
    from medseg.batch.job import Picture
    from medseg.inference.predictor import Prediction, Predictor
    from medseg.preprocessing.prepare import Prepared

T = TypeVar("T")

ROOM = 2 << 30
"""Bytes of scans under way at once, where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class _Read:
    task: Task
    inputs: Inputs
    volume: Volume
    seconds: dict[str, float]

    @property
    def case(self) -> Case:
        return self.task.case


@dataclass(frozen=True, slots=True)
class _Prepared:
    read: _Read
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class _Predicted:
    read: _Read
    prediction: Prediction
    memory_mb: dict[str, float]


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
    room : bytes of scans under way at once.
    """

    predictor: Predictor
    folder: Path
    model_digest: str
    settings_digest: str
    picture: Picture | None = None
    redo: bool = False
    formats: Formats = field(default_factory=Formats)
    room: int = ROOM

    @property
    def labels(self) -> LabelMap:
        """The model's labels, with the lesions of this run marked."""
        return self.formats.labels(self.predictor.model.labels)

    def run(self, tasks: Iterable[Task], tell: Tell = lambda _: None) -> Iterator[CaseResult]:
        """Yield what became of each case, as they end.

        Parameters
        ----------
        tasks : taken as there is room for them; may block.
        tell : told at once of every stage that begins and every case that ends, from any thread.
        """
        stages = Stages(self._read, self._prepare, self._infer, self._write)
        return run_stages(stages, tasks, self.room, tell, WRITERS[self.predictor.device.type])

    def _read(self, task: Task) -> _Read | CaseResult:
        return _attempt(task.case, partial(self._read_scan, task))

    def _read_scan(self, task: Task) -> _Read | CaseResult:
        began, case = perf_counter(), task.case
        try:
            inputs = Inputs(
                source=digest_files(case_files(case)), model=self.model_digest, settings=self.settings_digest
            )
        except OSError as error:
            return CaseResult(case.id, "rejected", "UNREADABLE", f"{case.id}: can't be read ({error.strerror})")
        record = None if self.redo else finished_record(self.folder / case.id, inputs)
        if record and (self.picture is None or PICTURE in record.outputs):
            return CaseResult.of(record, was_done=True)
        volume, _ = read_case(case)
        return _Read(task, inputs, volume, {"read": perf_counter() - began})

    def _prepare(self, read: _Read) -> _Prepared | CaseResult:
        return _attempt(read.case, partial(self._prepare_scan, read))

    def _prepare_scan(self, read: _Read) -> _Prepared:
        began = perf_counter()
        prepared = self.predictor.prepare(read.volume)
        seconds = read.seconds | {"prepare": perf_counter() - began}
        return _Prepared(replace(read, seconds=seconds), prepared)

    def _infer(self, prepared: _Prepared) -> _Predicted | CaseResult:
        return _attempt(prepared.read.case, partial(self._infer_scan, prepared))

    def _infer_scan(self, prepared: _Prepared) -> _Predicted:
        from medseg.inference.hardware import peak_memory_mb, reset_peak_memory  # loads torch, as the predictor has

        reset_peak_memory(self.predictor.device)
        prediction = self.predictor.infer(prepared.prepared)
        return _Predicted(prepared.read, prediction, peak_memory_mb(self.predictor.device))

    def _write(self, predicted: _Predicted) -> CaseResult:
        return _attempt(predicted.read.case, partial(self._write_case, predicted))

    def _write_case(self, predicted: _Predicted) -> CaseResult:
        began, read = perf_counter(), predicted.read
        prediction = self.predictor.clean(predicted.prediction)
        cleaned = perf_counter()
        with atomic_folder(self.folder / read.case.id) as folder:
            source, model = read.case.images[0], self.predictor.model.name
            found = self._measures(read, prediction)
            measured = perf_counter()
            write_mask(folder / MASK, prediction.mask, source, self.labels)
            not_written = self.formats.write(folder, prediction.mask, self.labels, source, model, found.measures)
            if self.picture:
                self.picture(read.volume, prediction.mask, self.predictor.model.labels, folder / PICTURE)
            written = _Written(_digests(folder), not_written, found)
            after = {
                "postprocess": cleaned - began,
                "measure": measured - cleaned,
                "write": perf_counter() - measured,
            }
            record = self._record(predicted, written, read.seconds | prediction.timings | after)
            write_record(record, folder)
        return CaseResult.of(record)

    def _measures(self, read: _Read, prediction: Prediction) -> MaskMeasures:
        is_series = read.case.images[0].kind == "dicom"
        return measure_mask(read.volume, prediction.mask, self.labels, slice_axis=2 if is_series else None)

    def _record(self, predicted: _Predicted, written: _Written, seconds: dict[str, float]) -> CaseRecord:
        read, prediction = predicted.read, predicted.prediction
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
            repairs={str(repair.code): repair.what for repair in read.volume.repairs},
            features=CaseFeatures(
                channels=measure_scan(read.volume),
                structures=written.found.structures,
                uncertainty=prediction.uncertainty,
            ),
            device=str(self.predictor.device),
            rung=prediction.rung,
            attempts=read.task.attempt,
            memory_mb=predicted.memory_mb,
            seconds={stage: round(time, 4) for stage, time in seconds.items()},
            measures=written.found.measures,
            not_written=written.not_written,
            outputs=written.outputs,
            versions=package_versions(),
            finished=timestamp(),
        )


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file in a folder by its path within."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_files([path]) for path in files}


def _attempt(case: Case, stage: Callable[[], T]) -> T | CaseResult:
    """Return what `stage` returns, or the result of a case that ends with its exception."""
    try:
        return stage()
    except Exception as error:
        fault = fault_of(case.id, error)
        return CaseResult(case.id, fault.status, fault.reason, fault.message)
