"""A study in the queue: a folder that says by its place how far it is, and a record of what happened to it.

QUEUE/received/<study>/              instances as they come
      complete/<study>.<time>/       nothing came for a while
      segmenting/<study>.<time>/
      sending/<study>.<time>/
      done/<study>.<time>/
      failed/<study>.<time>/

        scans/                       its instances, as they were received
        results/                     as `medseg segment` writes them
        study.json                   the record; without a patient's name or number
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Literal, get_args

from pydantic import Field

from medseg.io.files import flush_file, flush_folder, write_text
from medseg.records import Record, find_record

State = Literal["complete", "segmenting", "sending", "done", "failed"]
STATES: tuple[State, ...] = get_args(State)

SCANS, RESULTS, RECORD = "scans", "results", "study.json"


class Problem(Record):
    """A series of the study that was not segmented, or has no result of some format."""

    case: str = Field(description="Pseudonym of the series")
    reason: str = Field(description="Reason code")
    message: str = Field(description="The same as a sentence")


class StudyRecord(Record):
    """What is known of a study beside its files."""

    tries: int = Field(0, description="How often the present step was begun")
    next_try: float = Field(0.0, description="When it may be tried again, seconds since 1970")
    send: tuple[str, ...] = Field((), description="Files to send, below results/")
    sent: tuple[str, ...] = Field((), description="Destinations that have them all")
    problems: tuple[Problem, ...] = Field((), description="Series without a result, and why")
    reason: str = Field("", description="Why the study failed, or has nothing to send")
    message: str = Field("", description="The same as a sentence")
    failed_in: Literal["", "complete", "sending"] = Field("", description="Where a failed study goes on when retried")
    ended: float = Field(0.0, description="When it was done or had failed, seconds since 1970")


@dataclass(frozen=True, slots=True)
class Study:
    """A study of the queue that is complete; `folder` is where it lies now."""

    folder: Path

    @property
    def name(self) -> str:
        """Pseudonym of the study."""
        return self.folder.name.partition(".")[0]

    @property
    def scans(self) -> Path:
        """Folder of its instances."""
        return self.folder / SCANS

    @property
    def results(self) -> Path:
        """Folder of its results."""
        return self.folder / RESULTS

    @property
    def record(self) -> StudyRecord:
        """Its record; an empty one where there is none yet, or a crash of the machine left none."""
        return find_record(self.folder / RECORD, StudyRecord) or StudyRecord()

    def is_due(self) -> bool:
        """Whether its next try may begin."""
        return self.record.next_try <= time()

    def note(self, **changes: object) -> StudyRecord:
        """Change fields of its record, safely on disk; returns the record."""
        record = self.record.model_copy(update=changes)
        write_text(self.folder / RECORD, record.model_dump_json(indent=2) + "\n")
        flush_folder(self.folder)
        return record


def flush_tree(folder: Path) -> None:
    """Have all files below a folder, and their names, written to the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            flush_file(Path(parent, name))
        flush_folder(Path(parent))
