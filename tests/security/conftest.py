"""Run commands in a process that reports what it opens and can't reach a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..cli.conftest import _own_home, in_one_process, medseg, model, scans  # noqa: F401

GUARD = """
import json, sys

opened = []

def guard(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":  # asks the kernel, not a network
        raise RuntimeError(f"NETWORK: {event}")
    if event in ("open", "import", "exec", "compile"):
        opened.append(f"{event}:{arguments[0]}")

sys.addaudithook(guard)
try:
    import socket
    socket.socket()
except RuntimeError:
    pass
else:
    raise SystemExit("the guard guards nothing")
from medseg.cli.app import app

code = 0
for words in json.loads(sys.argv[1]):
    code = max(code, app(words, standalone_mode=False) or 0)
print("OPENED" + json.dumps(opened))
raise SystemExit(code)
"""
"""Audit hooks see every socket, and every file opened, from Python and can't be taken off again (PEP 578)."""


@dataclass(frozen=True)
class Guarded:
    code: int
    screen: str
    opened: tuple[str, ...]


@pytest.fixture
def guarded(tmp_path) -> Callable[..., Guarded]:
    """Return a function that runs medseg commands, one list of words each, without sockets.

    All in one process, which the hook sees; worker processes run the same code.
    """

    def run(*commands: list[object], folder: Path = tmp_path) -> Guarded:
        words = json.dumps([in_one_process(map(str, command)) for command in commands])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}
        program = [sys.executable, "-c", GUARD, words]
        done = subprocess.run(
            program, capture_output=True, text=True, check=False, env=environment, cwd=folder, timeout=240
        )
        screen, _, opened = done.stdout.partition("OPENED")
        return Guarded(done.returncode, screen + done.stderr, tuple(json.loads(opened or "[]")))

    return run
