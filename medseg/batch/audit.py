"""``audit.jsonl``: who did what to which case, when, and how it ended; a line of JSON each.

Lines are only ever added, by every run into the same folder; what a run had no time to write, because it was killed
between a result and its line, the next one adds. The words follow the audit messages of DICOM
PS3.15 A.5 (IHE ATNA): `time` is EventDateTime; `event` the event's name; `action` EventActionCode (E execute,
C create, R read); `outcome` EventOutcomeIndicator (0 success, 4 minor failure: this case; 8 serious failure: the
run); `user` the UserID of the active participant; `case` the ParticipantObjectID. The messages themselves, XML to
a repository, are not implemented.

The user is the number that the system gives the account: the hospital can say whose it is, and nobody else. A
line holds no path, no name and nothing from a header; a case is called by its id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from medseg.batch.summary import CaseResult
from medseg.batch.task import Facts
from medseg.errors import OutputError
from medseg.io.files import append_line
from medseg.provenance import medseg_version, timestamp

AUDIT = "audit.jsonl"

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = 0, 4, 8


class Audit(AbstractContextManager["Audit"]):
    """The log of one run: its begin and end are written by the block, cases by `case`.

    Parameters
    ----------
    folder : output folder of the run.
    facts : of the model.
    cases : number of cases that were found.

    Raises
    ------
    OutputError
        If nothing can be written there.
    """

    def __init__(self, folder: Path, facts: Facts, cases: int) -> None:
        self._path = folder / AUDIT
        self._created = frozenset(self._read_created())
        self._start = {
            "model": facts.name,
            "model_digest": facts.digest,
            "device": facts.device,
            "version": medseg_version(),
            "cases": cases,
        }

    def __enter__(self) -> Audit:
        self._write("Application Start", "E", SUCCESS, **self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write("Application Stop", "E", SUCCESS)
            return
        with suppress(OutputError):  # where nothing can be written, that is the error that is under way
            self._write("Application Stop", "E", SERIOUS_FAILURE, ended_by=kind.__name__)

    def case(self, result: CaseResult) -> None:
        """Write what became of a case."""
        if result.is_done and not (result.was_done and result.case in self._created):
            self._write("Result Created", "C", SUCCESS, case=result.case, status=result.status)
        if result.was_done:
            self._write("Result Verified", "R", SUCCESS, case=result.case, status=result.status)
        elif not result.is_done:
            self._write(
                "Result Not Created", "C", MINOR_FAILURE, case=result.case, status=result.status, reason=result.reason
            )

    def _read_created(self) -> Iterator[str]:
        """Yield the cases whose results are in the log; what can't be read is passed over."""
        with suppress(OSError), self._path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"Result Created"' in line:
                    with suppress(ValueError, KeyError, TypeError):
                        yield json.loads(line)["case"]

    def _write(self, event: str, action: str, outcome: int, **details: Any) -> None:
        user = os.getuid() if hasattr(os, "getuid") else None
        line = {"time": timestamp(), "user": user, "event": event, "action": action, "outcome": outcome, **details}
        try:
            append_line(self._path, json.dumps(line).encode())
        except OSError as error:
            raise OutputError(f"can't write {self._path}: {error.strerror}") from error
