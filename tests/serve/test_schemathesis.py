"""What schemathesis makes of the OpenAPI page, sent over a connection.

More of it: `FUZZED_REQUESTS=6000 pytest -s --timeout 3600 tests/serve/test_schemathesis.py`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from medseg.serve.refusal import RequestError

from .conftest import CASES, NAME

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'medseg[dev]'")

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

COUNT = int(os.environ.get("FUZZED_REQUESTS", "100"))
GOOD = {"model": NAME, "strategy": "uncertainty", "tag": "original"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod")
REMOVALS = ("os.remove", "os.rmdir")
KERNEL = Path("/proc/self/clear_refs")
"""Asked to forget the highest use of memory; no file."""


class Watch:
    """Notes every file that another thread of this process, which is the server, writes, moves or removes."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.is_on, self._client = True, threading.get_ident()
        sys.addaudithook(self._note)  # hooks stay for good, so it can be switched off

    def _note(self, event: str, words: tuple) -> None:
        if not self.is_on or threading.get_ident() == self._client:
            return
        if event == "open" and isinstance(words[0], str | bytes) and (words[2] or 0) & WRITING:
            self.changed.add(os.fsdecode(words[0]))
        elif event in REMOVALS and words[1] >= 0:  # a name within an open folder, as shutil.rmtree gives it
            self.changed.add(os.path.join(os.readlink(f"/proc/self/fd/{words[1]}"), os.fsdecode(words[0])))
        elif event in (*CHANGES, *REMOVALS):
            self.changed.update(os.fsdecode(word) for word in words if isinstance(word, str | bytes))


@pytest.fixture
def watch():
    found = Watch()
    yield found
    found.is_on = False


def no_training(*_: object) -> None:
    """Stand in for a training, which would only cost time."""
    raise RequestError(400, "not now")


def reach(case: schemathesis.Case, known: str) -> None:
    """Put names that the server knows into a request, so that what lies behind them is reached."""
    for values, good in ((case.query, GOOD | {"image": known, "label": known}), (case.path_parameters, GOOD)):
        values.update({name: good[name] for name in good if name in values})


def send(address: str, count: int) -> tuple[Counter[int], list[str]]:
    """Return how often each status came, and the requests that the server failed at."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses, failures, turn = Counter[int](), list[str](), 0
    while statuses.total() < count:  # an operation without parameters has but few requests
        operation, turn = operations[turn % len(operations)], turn + 1
        requests = st.one_of(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

        @seed(turn)
        @settings(
            max_examples=min(20, -(-count // len(operations))),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=requests, known=st.sampled_from((None, *CASES[:2])))
        def ask(case, known):
            if known:
                reach(case, known)
            answer = case.call(base_url=address)
            statuses[answer.status_code] += 1
            if answer.status_code >= 500:
                failures.append(f"{case.as_curl_command()[:500]} -> {answer.status_code}")

        ask()
    return statuses, failures


@pytest.mark.parametrize("with_model", [True, False])
def test_what_schemathesis_sends_is_answered_and_writes_into_the_data_folder_alone(
    running, opened, watch, tmp_path, monkeypatch, with_model
):
    monkeypatch.setattr("medseg.serve.teacher.Teacher.start", no_training)
    labels = tmp_path / "labels.json"
    labels.write_text('{"liver": 2, "tumour": 5}')
    address = running() if with_model else running(model=None, labels=labels)
    statuses, failures = send(address, COUNT // 2)
    print(statuses.total(), "requests:", dict(statuses))
    watch.is_on = False
    assert not failures, failures[:3]
    assert min(statuses[200], statuses[404], statuses[422]) > 0, statuses
    served = tmp_path / "served"
    changed = {Path(os.path.abspath(path)) for path in watch.changed} - {KERNEL}
    assert not [path for path in changed if served not in path.parents]
    assert watch.changed
    assert {path.name for path in tmp_path.iterdir()} <= {"served", "labels.json", "key"}
    assert not list((served / "incoming").glob("*"))
    assert {path.name.partition(".")[0] for path in (served / "review" / "scans").glob("*")} <= set(CASES)
