"""Why a reviewer's file or verdict is not taken; every refusal has a word for tables and a sentence for people."""

from __future__ import annotations

from medseg.errors import MedsegError
from medseg.text import Word


class Refusal(Word):
    """Stable words."""

    UNKNOWN_CASE = "UNKNOWN_CASE"
    OTHER_CASE = "OTHER_CASE"
    UNREADABLE = "UNREADABLE"
    UNFINISHED = "UNFINISHED"
    OFF_GRID = "OFF_GRID"
    OUTSIDE_SCAN = "OUTSIDE_SCAN"
    UNKNOWN_SEGMENT = "UNKNOWN_SEGMENT"
    RENAMED_SEGMENT = "RENAMED_SEGMENT"
    REPEATED_SEGMENT = "REPEATED_SEGMENT"
    MISSING_SEGMENT = "MISSING_SEGMENT"
    OVERLAP = "OVERLAP"
    NO_MASK = "NO_MASK"
    REPEATED_MASK = "REPEATED_MASK"
    CHANGED_PREDICTION = "CHANGED_PREDICTION"
    WORKLIST = "WORKLIST"
    NO_SCAN = "NO_SCAN"
    CHANGED_SCAN = "CHANGED_SCAN"
    NOT_IMPORTED = "NOT_IMPORTED"


class ReviewError(MedsegError):
    """A verdict or a corrected mask can't be taken; `code` says why in a word."""

    def __init__(self, code: Refusal, message: str) -> None:
        super().__init__(message)
        self.code = code
