"""The whole session with MONAI Label's own client over loopback, with the token either way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import SimpleITK as sitk

from medseg.serve.tokens import Tokens

from .conftest import CASES, NAME, scan_of

PYTHON = os.environ.get("MONAILABEL_PYTHON") or (sys.executable if find_spec("monailabel") else "")

pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="MONAI Label's client is not here: MONAILABEL_PYTHON names no Python with monailabel 0.8 (see .ci/run)",
)


@pytest.mark.parametrize("way", ["password", "address"])
def test_the_whole_session(running, tmp_path, way):
    tokens = Tokens(bytes(range(32)))
    address = running(tokens)
    password = tokens.token if way == "password" else ""
    address = address if password else f"{address}/key/{tokens.token}"
    script = Path(__file__).with_name("monailabel_session.py")
    (tmp_path / "client").mkdir()
    done = subprocess.run(
        [PYTHON, script, address, password, tmp_path / "client"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["needs_token"] is bool(password)
    assert list(told["info"]["models"]) == [NAME]
    assert told["info"]["labels"] == ["liver", "tumour"]
    first, second = told["first"], told["second"]
    assert first["id"] in CASES
    assert second["id"] in set(CASES) - {first["id"]}
    assert told["completed"] == [0, 1]
    assert told["infer"]["params"]["label_names"] == {"liver": 1, "tumour": 2}
    predicted = sitk.ReadImage(tmp_path / "client" / "predicted.nrrd")
    assert predicted.GetSize() == scan_of(0).grid.shape
    if way == "address":
        scan = sitk.ReadImage(tmp_path / "client" / first["name"])
        assert scan.GetSize() == predicted.GetSize()
        assert scan.GetDirection() == pytest.approx(predicted.GetDirection(), abs=1e-6)
        assert scan.GetOrigin() == pytest.approx(predicted.GetOrigin(), abs=1e-4)
    assert told["saved"]["image"] == first["id"]
    assert set(told["objects"]) == set(CASES)
    assert set(told["objects"][first["id"]]["labels"]) == {"original", "final"}
    if way == "address":
        check_training(told)
        with urllib.request.urlopen(f"{address}/logs/") as answer:
            log = answer.read().decode()
        assert "learning from 1 cases, 1 held out" in log
        assert "held-out cases" in log


def check_training(told):
    assert told["running_before"] is False
    assert told["train"]["status"] == "RUNNING"
    assert told["status"]["status"] == "DONE", told["status"]
    assert told["status"]["details"]
    assert told["stats"]["total_epochs"] == 2
    assert told["stopped"] is None
    assert "404" in told["refusal"]
