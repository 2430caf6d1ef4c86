"""The outcome of a batch: one result a case, tables of them, the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

from medseg.batch.record import CaseRecord
from medseg.text import Word, significant

Status = Literal["done", "done_with_flags", "rejected", "failed", "crashed", "timeout"]
STATUSES: tuple[Status, ...] = get_args(Status)
DONE: tuple[Status, ...] = ("done", "done_with_flags")

Record = TypeVar("Record")


class Failure(Word):
    """Why a sound scan was not segmented; the scan's own faults have `medseg.errors.ReasonCode`.

    The reason of a crash is how the process ended: a signal such as SIGSEGV, or EXIT_1.
    """

    GPU_LOST = "GPU_LOST"
    MODEL_MISMATCH = "MODEL_MISMATCH"
    OUTPUT = "OUTPUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    UNEXPECTED = "UNEXPECTED"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Record]):
    """What became of one scan of a folder.

    Attributes
    ----------
    case : its id.
    status : done; done_with_flags (ingest noticed something); rejected (the scan is not sound); failed;
        crashed (it ended its process); timeout (it took too long).
    reason : code of a failure or rejection; "" when done.
    message : the same as a sentence.
    record : its record when done.
    was_done : whether an earlier run had done it.
    """

    case: str
    status: Status
    reason: str = ""
    message: str = ""
    record: Record | None = None
    was_done: bool = False

    @property
    def is_done(self) -> bool:
        """Whether it has a result."""
        return self.status in DONE


@dataclass(frozen=True, slots=True)
class CaseResult(Outcome[CaseRecord]):
    """What became of one case that was to be segmented."""

    record: CaseRecord | None = None  # said again for pydantic, to which the generic one could be anything

    @classmethod
    def of(cls, record: CaseRecord, *, was_done: bool = False) -> CaseResult:
        """Return the result of a case that is done."""
        return cls(record.case, "done_with_flags" if record.flags else "done", record=record, was_done=was_done)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The outcome of a batch.

    Attributes
    ----------
    output : the folder that holds ``cases/``.
    tables : the folder that holds ``cases.csv``, ``sources.csv`` and ``run.json``: the same, or that of a shard.
    results : one a case, ordered by case id.
    sources : where each case is found below the scan folder: the file, or a series' folder.
    left_out : files that are no scan to segment, by reason code.
    unread : those of them that are images of formats that medseg doesn't read, by ending.
    seconds : time of the whole run, s.
    elsewhere : number of cases that are other shards'.
    """

    output: Path
    tables: Path
    results: tuple[CaseResult, ...]
    sources: dict[str, Path]
    left_out: dict[str, int]
    unread: dict[str, int]
    seconds: float
    elsewhere: int = 0

    def count(self, *statuses: Status) -> int:
        """Return how many cases ended with one of these statuses."""
        return sum(result.status in statuses for result in self.results)

    @property
    def left_behind(self) -> int:
        """Number of case folders that are of earlier runs, and of no scan of this one; of a shard nobody knows."""
        if self.tables != self.output:
            return 0
        known = {result.case for result in self.results}
        return sum(folder.name not in known for folder in (self.output / "cases").glob("[!.]*"))

    @property
    def exit_code(self) -> int:
        """0: all cases done; 1: some not; 3: none could be done. A shard to which no case falls is done."""
        if self.elsewhere and not self.results:
            return 0
        return exit_code([result.status for result in self.results])


def exit_code(statuses: Sequence[Status]) -> int:
    """Return 0 if all cases of a run are done, 1 if some are not, 3 if none is.

    Examples
    --------
    >>> exit_code(["done", "done"]), exit_code(["done", "rejected"]), exit_code([])
    (0, 1, 3)
    """
    done = sum(status in DONE for status in statuses)
    if done == 0:
        return 3
    return 0 if done == len(statuses) else 1


def highest(peaks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the highest use of each kind of memory, MB.

    Examples
    --------
    >>> highest([{"resident": 900.0}, {"resident": 700.0, "gpu": 1200.0}])
    {'gpu': 1200.0, 'resident': 900.0}
    """
    kinds = sorted({kind for peak in peaks for kind in peak})
    return {kind: max(peak.get(kind, 0.0) for peak in peaks) for kind in kinds}


def case_rows(results: Iterable[CaseResult], labels: Sequence[str]) -> tuple[list[str], list[list[object]]]:
    """Return the header and the rows of ``cases.csv``: status, geometry, and the volume of each label."""
    header = ["case", "status", "reason", "message", "shape", "spacing_mm", "axcodes", "confidence", "flags", "seconds"]
    rows = [_case_row(result, labels) for result in results]
    return header + [f"{label}_ml" for label in labels], rows


def _case_row(result: CaseResult, labels: Sequence[str]) -> list[object]:
    record = result.record
    lacking = "; ".join(f"no {name}: {reason}" for name, reason in record.not_written.items()) if record else ""
    start: list[object] = [result.case, result.status, result.reason, result.message or lacking]
    if record is None:
        return start + [""] * (6 + len(labels))
    geometry = record.geometry
    return [
        *start,
        geometry.shape_text,
        geometry.spacing_text,
        geometry.axcodes,
        round(record.confidence, 4),
        " ".join(record.flags),
        round(sum(record.seconds.values()), 3),
        *(significant(record.volumes_ml.get(label, 0.0)) for label in labels),
    ]
