"""The program itself, killed and stopped: the next one goes on where it was."""

from __future__ import annotations

from pathlib import Path

from .conftest import PATIENT, SEG, SR, make_series, push, until
from .programs import Listening


def studies(queue: Path, state: str) -> int:
    return len(list((queue / state).iterdir()))


def test_killed_with_one_study_received_and_one_unsent(store, model, tmp_path):
    queue, words = tmp_path / "queue", ("--send-to", store.address, "--port", 0)
    first = Listening(queue, model, *words, "--quiet-seconds", 1).wait()
    assert push(first.port, make_series(tmp_path / "a")) == [0] * 6
    until(lambda: studies(queue, "sending") == 1, 60)  # nobody is there to take it
    assert push(first.port, make_series(tmp_path / "b", 1, patient="B")) == [0] * 6
    first.end(kill=True)
    assert studies(queue, "received") + studies(queue, "complete") + studies(queue, "segmenting") == 1

    with store.running():
        second = Listening(queue, model, *words, "--quiet-seconds", 1).wait()
        until(lambda: studies(queue, "done") == 2, 60)
        assert second.end() == 0  # SIGTERM
    assert "stopped" in second.lines[-1]
    assert store.kinds() == [SEG, SEG, SR, SR]
    assert {str(dataset.PatientID) for dataset in store.datasets} == {PATIENT, "B"}
    assert not any("Traceback" in line for run in (first, second) for line in run.lines)
