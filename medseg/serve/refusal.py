"""Why a request is not done, as an HTTP status and a sentence for the person at the other end."""

from __future__ import annotations

import errno

from medseg.errors import LabelError, MedsegError, OutputError, ScanError
from medseg.review.refusal import Refusal, ReviewError
from medseg.text import printable

BAD_REQUEST, FORBIDDEN, NOT_FOUND, NOT_ACCEPTABLE = 400, 403, 404, 406
UNPROCESSABLE, TOO_MANY, SERVER_ERROR, DISK_FULL = 422, 429, 500, 507

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class RequestError(MedsegError):
    """A request can't be done; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: Exception) -> int:
    """Return the HTTP status of a failure: 4xx where the request is at fault, 507 where the disk is full."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, ReviewError):
        return NOT_FOUND if error.code == Refusal.UNKNOWN_CASE else UNPROCESSABLE
    if isinstance(error, (ScanError, LabelError)):
        return UNPROCESSABLE
    cause = error.__cause__ if isinstance(error, OutputError) else error
    return DISK_FULL if isinstance(cause, OSError) and cause.errno in NO_ROOM else SERVER_ERROR


def sentence_of(error: Exception) -> str:
    """Return what is told of a failure; of one that nobody thought of only its type, because its text may quote."""
    if isinstance(error, MedsegError):
        return printable(str(error))
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return "the server's disk is full; nothing was kept; free some space and send it again"
    return f"unexpected error ({type(error).__name__}); the server's log has more"
