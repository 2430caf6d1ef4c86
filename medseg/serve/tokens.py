"""The server's token, and the bearer tokens that its clients get for it."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import time

from medseg.catalog.identity import load_secret
from medseg.text import printable

VALID_SECONDS = 12 * 3600
"""So long a bearer token holds; Slicer's module fetches another one by itself."""

MOST_LETTERS = 64
"""Of a user's code."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Gives and checks bearer tokens; nothing is kept of them.

    Attributes
    ----------
    key : the server's secret.
    clock : time in s since 1970.
    """

    key: bytes
    clock: Callable[[], float] = time

    @classmethod
    def of(cls, path: Path) -> Tokens:
        """Read the token file, which is made if it is missing, and must be readable by its owner only."""
        return cls(load_secret(path))

    @property
    def token(self) -> str:
        """The server's token, which is also the password."""
        return self.key.hex()

    def is_right(self, token: str) -> bool:
        """Whether this is the server's token; takes the same time for every wrong one."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def give(self, user: str) -> str:
        """Return a bearer token for a user."""
        claim = f"{int(self.clock()) + VALID_SECONDS}|{printable(user)[:MOST_LETTERS]}".encode()
        return f"{urlsafe_b64encode(claim).decode()}.{self._sign(claim)}"

    def user_of(self, header: str) -> str | None:
        """Return the user of an Authorization header; None if it does not let in.

        Examples
        --------
        >>> tokens = Tokens(bytes(32), clock=lambda: 0)
        >>> tokens.user_of(f"Bearer {tokens.give('rev-1')}"), tokens.user_of("Bearer nothing")
        ('rev-1', None)
        """
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer":
            return None
        if self.is_right(token):
            return ""
        encoded, _, signature = token.partition(".")
        try:
            claim = urlsafe_b64decode(encoded.encode("ascii"))
        except ValueError:
            return None
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(claim).encode()):
            return None
        until, _, user = claim.decode().partition("|")
        return user if int(until) > self.clock() else None

    def _sign(self, claim: bytes) -> str:
        return hmac.new(self.key, b"medseg-serve|" + claim, sha256).hexdigest()
