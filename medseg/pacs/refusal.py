"""Why an instance is not taken, as DICOM says it (PS3.4 B.2.3)."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Status of a C-STORE."""

    SUCCESS = 0x0000
    NO_ROOM = 0xA700
    MISMATCH = 0xA900
    NOT_UNDERSTOOD = 0xC000


class RefusedError(Exception):
    """An instance is not taken; the message has nothing of its header."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
