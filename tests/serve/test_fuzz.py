"""Garbage is refused, and writes nothing; `FUZZED_REQUESTS=5000 pytest tests/serve/test_fuzz.py` sends more of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medseg.serve.refusal import RequestError

from .conftest import CASES
from .fuzzing import send

COUNT = int(os.environ.get("FUZZED_REQUESTS", "120"))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_training(*_: object) -> None:
    """Stand in for a training, which would only cost time."""
    raise RequestError(400, "not now")


@pytest.mark.parametrize("with_model", [True, False])
def test_garbage_is_refused_and_leaves_nothing(client, studies, tmp_path, with_model):
    import httpx2

    labels = tmp_path / "labels.json"
    labels.write_text('{"liver": 2, "tumour": 5}')
    http = client() if with_model else client(model=None, labels=labels)
    if http.service.teacher:
        http.service.teacher.start = no_training
    before = everything(studies)
    statuses, failures = send(http, COUNT, with_model, (ValueError, httpx2.InvalidURL, httpx2.LocalProtocolError))
    assert not failures, failures[:3]
    assert min(statuses[200], statuses[404], statuses[422]) > 0, statuses
    assert everything(studies) == before
    served = http.service.settings.output
    outside = {path.name for path in tmp_path.iterdir()} - {"labels.json", "key", served.name}
    assert not outside
    assert not list((served / "incoming").glob("*"))
    names = {path.name.partition(".")[0] for path in (served / "review" / "scans").glob("*")}
    assert names <= set(CASES)
