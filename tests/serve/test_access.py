from __future__ import annotations

import asyncio
import logging
import os

import pytest

from medseg.serve.access import Gate
from medseg.serve.server import logging_to
from medseg.serve.settings import Limits
from medseg.serve.tokens import Tokens


def answer_to(app, receive) -> list[dict]:
    """Return what a gate with short patience sends."""
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/", "headers": [(b"host", b"127.0.0.1:8000")]}
    asyncio.run(Gate(app, None, Limits(upload_seconds=0.05))(scope, receive, send))
    return sent


def test_a_body_that_drips_is_cut():
    async def app(scope, receive, send) -> None:
        while (await receive())["more_body"]:
            pass

    async def drip():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    assert answer_to(app, drip)[0]["status"] == 408


def test_work_after_the_body_may_take_its_time():
    async def app(scope, receive, send) -> None:
        await receive()
        await asyncio.sleep(0.1)
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})

    pieces = iter([{"type": "http.request", "body": b"x", "more_body": False}, {"type": "http.disconnect"}])

    async def receive():
        return next(pieces)

    (start,) = answer_to(app, receive)
    assert start["status"] == 200
    assert (b"referrer-policy", b"no-referrer") in start["headers"]


def test_a_new_token_is_not_called_a_key_of_pseudonyms(tmp_path, caplog):
    tokens = Tokens.of(tmp_path / "token.key")
    assert tokens.token == Tokens.of(tmp_path / "token.key").token
    assert caplog.text == ""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_only_its_owner_reads_the_log_also_when_a_new_one_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.serve.server.LOG_BYTES", 100)
    with logging_to(tmp_path / "server.log"):
        for number in range(4):
            logging.getLogger("medseg.serve").info("Anna_Muster: label v%03d, corrected", number)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "server.log": 0o600,
        "server.log.1": 0o600,
        "server.log.2": 0o600,
    }
