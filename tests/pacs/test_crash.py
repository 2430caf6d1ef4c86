"""The program itself, killed and stopped: the next one goes on where it was."""

from __future__ import annotations

from pathlib import Path

from .conftest import SEG, SR, make_series, push, until
from .programs import Listening


def studies(queue: Path, state: str) -> int:
    return len(list((queue / state).iterdir()))


def test_killed_after_receiving_and_killed_before_sending(store, model, tmp_path):
    queue, words = tmp_path / "queue", ("--send-to", store.address, "--port", 0)
    first = Listening(queue, model, *words, "--quiet-seconds", 600).wait()
    assert push(first.port, make_series(tmp_path / "series")) == [0] * 6
    first.end(kill=True)
    assert studies(queue, "received") == 1

    second = Listening(queue, model, *words, "--quiet-seconds", 0.5).wait()
    until(lambda: studies(queue, "sending") == 1, 60)  # nobody is there to take it
    second.end(kill=True)

    with store.running():
        third = Listening(queue, model, *words, "--quiet-seconds", 0.5).wait()
        until(lambda: studies(queue, "done") == 1, 60)
        assert third.end() == 0  # SIGTERM
    assert "stopped" in third.lines[-1]
    assert store.kinds() == [SEG, SR]
    assert not any("Traceback" in line for run in (first, second, third) for line in run.lines)
