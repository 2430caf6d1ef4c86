"""Who may come in, and how much each request may bring.

The token comes as a bearer token, which `medseg.serve.tokens` gives for a password, or in the address:
``http://127.0.0.1:8000/key/TOKEN``. Slicer's module fetches scans without its bearer token, so it needs
the latter: at an address without the token it gets everything but scans.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from time import monotonic
from typing import Any

from fastapi import HTTPException  # starlette's own would become a 400 while a form is parsed
from starlette.responses import JSONResponse, RedirectResponse

from medseg.serve.settings import Limits
from medseg.serve.tokens import Tokens

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PREFIX = "/key/"
OPEN = ("/auth/", "/auth/token")
"""Paths that everybody may ask: whether a token is needed, and one for a password."""

OPEN_MB = 0.01
"""Largest body of a request for one of them, MB: a name and a password, of whoever it is."""

NO_TOKEN = "the token is missing or wrong"
LOCAL = ("127.0.0.1", "localhost", "[::1]")
USER, ENTERED = "medseg.user", "medseg.entered"
"""Keys of a request's scope: a reviewer's code, and whether the address held the token."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # addresses may hold the token
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
)
"""Headers of every answer that does not have them otherwise."""

MB = 1_000_000

logger = logging.getLogger("medseg.serve")


class Gate:
    """Lets requests in that have the token, and cuts bodies that are too large or too slow.

    Parameters
    ----------
    tokens : None: everybody on this machine may come in; pages of other sites in its browser may not.
    """

    def __init__(self, app: App, tokens: Tokens | None, limits: Limits) -> None:
        self._app, self._tokens, self._limits = app, tokens, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        sent = _Watched(send)
        try:
            entered = self._enter(scope, headers)
            if not entered["path"]:
                await _with_slash(scope)(scope, receive, sent)
                return
            bounded = _Bounded(receive, headers, self._limits_of(entered))
            bounded.check_announced()
            await self._app(entered, bounded, sent)
        except HTTPException as error:
            if not sent.has_begun:
                await self._refuse(error.status_code, error.detail, scope, receive, send)

    def _enter(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Scope:
        """Return the scope of a request that may come in, its path without the token; raises `HTTPException`."""
        path: str = scope["path"]
        if self._tokens is None:
            _check_site(headers)
            return {**scope, ENTERED: True, USER: ""}
        if path.startswith(PREFIX):
            token, slash, rest = path.removeprefix(PREFIX).partition("/")
            if not self._tokens.is_right(token):
                raise HTTPException(401, NO_TOKEN)
            inner = slash + rest
            return {**scope, "path": inner, "raw_path": inner.encode(), ENTERED: True, USER: ""}
        user = self._tokens.user_of(headers.get(b"authorization", b"").decode("latin-1"))
        if user is None and path not in OPEN:
            raise HTTPException(401, NO_TOKEN)
        return {**scope, ENTERED: False, USER: user or ""}

    def _limits_of(self, entered: Scope) -> Limits:
        if entered["path"] not in OPEN:
            return self._limits
        return replace(self._limits, upload_mb=min(OPEN_MB, self._limits.upload_mb))

    async def _refuse(self, status: int, message: str, scope: Scope, receive: Receive, send: Send) -> None:
        logger.info("refused a request: %s", message)
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await JSONResponse({"detail": message}, status, {**headers, "Connection": "close"})(scope, receive, send)


def _check_site(headers: Mapping[bytes, bytes]) -> None:
    """Refuse what a page of another site asks, by the name that it has for this machine or by what the browser says.

    A link of another page, such as a report's, may lead here: the browser does not show that page the answer.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name not in LOCAL:
        raise HTTPException(403, "ask by a local address")
    origin = headers.get(b"origin", b"http://" + headers[b"host"]).decode("latin-1")
    is_asked_by_script = headers.get(b"sec-fetch-mode", b"navigate") != b"navigate"
    is_own_page = headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
    if origin.partition("://")[2] != host or (is_asked_by_script and not is_own_page):
        raise HTTPException(403, "a page of another site asks; open the server's own address")


def _with_slash(scope: Scope) -> RedirectResponse:
    """Return the way to the same address with a slash at its end, which the links of pages start from."""
    return RedirectResponse(f"{scope['path'].rpartition('/')[2]}/")


class _Bounded:
    """A request's body, cut where it is too large or too slow."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._announced = headers.get(b"content-length", b"0")
        self._taken, self._until = 0, monotonic() + limits.upload_seconds
        self._is_whole = False

    def check_announced(self) -> None:
        """Refuse a body that says of itself that it is too large."""
        if self._announced.isdigit() and int(self._announced) > self._limits.upload_mb * MB:
            raise self._too_large()

    async def __call__(self) -> Message:
        """Return the next piece."""
        if self._is_whole:  # what comes now is that the client goes, whenever it likes
            return await self._receive()
        seconds = self._until - monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(seconds, 0.001))
        except asyncio.TimeoutError:
            words = f"the request took longer than {self._limits.upload_seconds:g} s"
            raise HTTPException(408, words) from None
        self._is_whole = not message.get("more_body", False)
        self._taken += len(message.get("body", b""))
        if self._taken > self._limits.upload_mb * MB:
            raise self._too_large()
        return message

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than {self._limits.upload_mb:g} MB")


class _Watched:
    """Sends an answer, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send, self.has_begun = send, False

    async def __call__(self, message: Message) -> None:
        """Send a piece."""
        self.has_begun = True
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            more = [pair for pair in HEADERS if pair[0] not in there]
            message = {**message, "headers": [*message["headers"], *more]}
        await self._send(message)
