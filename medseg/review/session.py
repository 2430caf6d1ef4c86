"""What a review session in 3D Slicer knows and keeps: cases, order, verdicts, where the reviewer stopped.

`medseg review export` copies this file beside ``review_in_slicer.py`` as ``review_session.py``, where it runs in
Slicer's own Python: it uses the standard library alone, in the words of Python 3.9, and ASCII only, because
Slicer reads scripts in the system's encoding. It knows nothing of Slicer.

    corrected/<case>.json        the verdict: status, reviewer, time, comment
    corrected/<case>.seg.nrrd    the mask, saved whole under another name and renamed
    session/<reviewer>.json      where the reviewer stopped
    session/<case>~<reviewer>.seg.nrrd   edits without a verdict yet

If another reviewer has a verdict on a case, the files are called ``<case>~<reviewer>``: nobody writes over
anybody else's work.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

MANIFEST = "review.json"
CORRECTED = "corrected"
SESSION = "session"
SEPARATOR = "~"
ENDING = ".seg.nrrd"

ACCEPTED, CORRECTED_STATUS, REJECTED, FLAGGED = "accepted", "corrected", "rejected", "flagged"
STATUSES = (ACCEPTED, CORRECTED_STATUS, REJECTED, FLAGGED)
IN_PROGRESS = "inprogress"

SEGMENT_STATUS = {ACCEPTED: "completed", CORRECTED_STATUS: "completed", FLAGGED: "flagged"}
"""What Slicer's status column shows for a verdict; a rejected mask is not saved."""

STATUS_TAG = "Segmentation.Status"
REVIEWER_TAG = "medseg.Reviewer"
TIME_TAG = "medseg.Reviewed"

CODE_LIMIT = 32

Writer = Callable[[Path], bool]
"""Writes the segmentation to a path; returns whether it could."""


class SessionError(Exception):
    """Something that the reviewer can do something about, as a sentence."""


@dataclass(frozen=True)
class SessionCase:
    """A case as the manifest has it; paths are relative to the review folder."""

    case: str
    shown: str
    images: tuple[str, ...]
    mask: str
    window: tuple[float, float]
    focus_mm: tuple[float, float, float]
    priority: float
    findings: tuple[str, ...]
    source: str
    prediction: str


@dataclass(frozen=True)
class Decision:
    """A reviewer's verdict on a case; `mask` is the name of the file beside it, "" if there is none.

    `source` and `prediction` are the digests of the scan and the model's mask that were shown; "" where unknown.
    """

    case: str
    status: str
    reviewer: str
    decided: str
    comment: str = ""
    mask: str = ""
    source: str = ""
    prediction: str = ""

    def is_about(self, case: SessionCase) -> bool:
        """Whether it still says something: any mask of its scan does, a rejection or flag is of one prediction."""
        if self.source not in ("", case.source):
            return False
        return self.status in (ACCEPTED, CORRECTED_STATUS) or self.prediction in ("", case.prediction)


def clean_code(text: str) -> str:
    """Return a reviewer's code with the characters only that a file name may hold.

    Examples
    --------
    >>> clean_code(" A. Reader/2 ")
    'A._Reader_2'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text.strip()).strip("._-")[:CODE_LIMIT]


def read_decision(path: Path) -> Decision:
    """Return the verdict that a file holds; raises `SessionError` if it holds none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        decision = Decision(**values)
    except (OSError, ValueError, TypeError):
        raise SessionError(f"{path.name} can't be read; give the verdict again") from None
    if not all(isinstance(value, str) for value in asdict(decision).values()):
        raise SessionError(f"{path.name} is not what a session writes; give the verdict again")
    return decision


class Session:
    """One reviewer's way through the cases of a review folder.

    Attributes
    ----------
    cases : in the order of the worklist, the most doubtful first.
    position : number of the current case, from 0.
    reviewer : the reviewer's code; "" until `sign_in`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.cases = [_case(values) for values in manifest["cases"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise SessionError(f"{folder / MANIFEST} can't be read; export the review again") from None
        if not self.cases:
            raise SessionError("there is no case to review")
        self.position = 0
        self.reviewer = ""

    @property
    def current(self) -> SessionCase:
        """The case that is shown."""
        return self.cases[self.position]

    @property
    def finished(self) -> int:
        """How many cases this reviewer has a verdict on."""
        return sum(self.own_decision(case) is not None for case in self.cases)

    def sign_in(self, code: str) -> None:
        """Say who reviews, and go where that reviewer stopped.

        That is the case that was shown last, if it has no verdict, else the next one without.
        """
        self.reviewer = clean_code(code)
        self.check_signed_in()
        names = [case.case for case in self.cases]
        last = self._last_case()
        start = names.index(last) if last in names else 0
        order = [*range(start, len(names)), *range(start)]
        self.position = next((n for n in order if self.own_decision(self.cases[n]) is None), start)
        self._remember()

    def check_signed_in(self) -> None:
        """Raise `SessionError` while nobody has said who reviews."""
        if not self.reviewer:
            raise SessionError("enter your code and press Begin: letters and digits, not your name")

    def go(self, step: int) -> bool:
        """Go so many cases on, or back; returns whether that is another case."""
        target = min(max(self.position + step, 0), len(self.cases) - 1)
        moved = target != self.position
        self.position = target
        self._remember()
        return moved

    def own_decision(self, case: SessionCase) -> Decision | None:
        """Return this reviewer's verdict on a case as it is now; None while there is none."""
        for stem in self._stems(case.case):
            decision = _decision_in(self.folder / CORRECTED / (stem + ".json"))
            if decision and decision.reviewer == self.reviewer and decision.status != IN_PROGRESS:
                return decision if decision.is_about(case) else None
        return None

    def mask_to_show(self) -> Path:
        """Return what to load for the current case: this reviewer's edits, verdict, or else the prediction."""
        work = self.work_path()
        if work.is_file():
            return work
        decision = self.own_decision(self.current)
        if decision and decision.mask:
            return self.folder / CORRECTED / decision.mask
        return self.folder / self.current.mask

    def tags(self, status: str, now: datetime | None = None) -> dict[str, str]:
        """Return what every segment is to say of its review: status, reviewer, time (without colons)."""
        moment = (now or datetime.now(timezone.utc)).strftime("%Y%m%dT%H%M%SZ")
        return {STATUS_TAG: SEGMENT_STATUS[status], REVIEWER_TAG: self.reviewer, TIME_TAG: moment}

    def decide(self, status: str, comment: str, write: Writer, now: datetime | None = None) -> Decision:
        """Keep a verdict on the current case, and its mask.

        The mask is kept with *accepted*, too: if it was edited all the same, the edits are not lost, and the
        import says "corrected".
        """
        self.check_signed_in()
        if status not in STATUSES:
            raise SessionError(f"{status!r} is no verdict; they are {', '.join(STATUSES)}")
        case = self.current
        stem = self._claim(case.case)
        name = ""
        if status in SEGMENT_STATUS:
            name = stem + ENDING
            self._save(self.folder / CORRECTED / name, write)
        decided = (now or datetime.now(timezone.utc)).isoformat(timespec="seconds")
        shown = {"source": case.source, "prediction": case.prediction}
        decision = Decision(case.case, status, self.reviewer, decided, comment.strip(), name, **shown)
        _write_json(self.folder / CORRECTED / (stem + ".json"), asdict(decision))
        if self.work_path().is_file():
            self.work_path().unlink()
        self._remember()
        return decision

    def save_work(self, write: Writer) -> None:
        """Keep edits of the current case without a verdict; the import does not see them."""
        if self.reviewer:
            self._save(self.work_path(), write)

    def work_path(self) -> Path:
        """Return where edits of the current case without a verdict are kept."""
        return self.folder / SESSION / (self._stems(self.current.case)[1] + ENDING)

    def _claim(self, case: str) -> str:
        """Return the name that this reviewer's files of a case have; taken before anything is written."""
        folder = self.folder / CORRECTED
        folder.mkdir(parents=True, exist_ok=True)
        claim = asdict(Decision(case, IN_PROGRESS, self.reviewer, ""))
        for stem in self._stems(case):
            path = folder / (stem + ".json")
            try:
                with path.open("x", encoding="utf-8") as stream:  # fails if another reviewer is first
                    json.dump(claim, stream)
                return stem
            except FileExistsError:
                there = _decision_in(path)
                if there and there.reviewer == self.reviewer:
                    return stem
            except OSError as error:
                raise _unwritable(path, error) from None
        raise SessionError(
            f"{case}: files called after the code {self.reviewer} are another reviewer's; take another code"
        )

    def _stems(self, case: str) -> tuple[str, str]:
        return case, case + SEPARATOR + self.reviewer

    def _save(self, target: Path, write: Writer) -> None:
        temporary = target.with_name(".tmp-" + target.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not write(temporary):
                raise SessionError(f"{target.name} could not be saved; is the disk full, or the folder read-only?")
            os.replace(temporary, target)
        except OSError as error:
            raise _unwritable(target, error) from None
        finally:
            if temporary.exists():
                temporary.unlink()

    def _last_case(self) -> str:
        try:
            return str(json.loads(self._session_path().read_text(encoding="utf-8"))["case"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""  # a first session, or a lost bookmark: begin at the top

    def _remember(self) -> None:
        if self.reviewer:
            _write_json(self._session_path(), {"case": self.current.case})

    def _session_path(self) -> Path:
        return self.folder / SESSION / (self.reviewer + ".json")


def _case(values: dict[str, Any]) -> SessionCase:
    low, high = values["window"]
    x, y, z = values["focus_mm"]
    return SessionCase(
        case=values["case"],
        shown=values["shown"],
        images=tuple(values["images"]),
        mask=values["mask"],
        window=(low, high),
        focus_mm=(x, y, z),
        priority=values["priority"],
        findings=tuple(values["findings"]),
        source=values["source"],
        prediction=values["prediction"],
    )


def _decision_in(path: Path) -> Decision | None:
    """Return the verdict that a file holds; None if it can't be read: it is somebody's, and stays."""
    try:
        return read_decision(path)
    except SessionError:
        return None


def _write_json(path: Path, values: dict[str, str]) -> None:
    temporary = path.with_name(".tmp-" + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> SessionError:
    return SessionError(f"{path.name} can't be written: {error.strerror}")
