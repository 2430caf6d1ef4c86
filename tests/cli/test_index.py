"""``medseg index``: every file is accounted for, refusals are said in words."""

from __future__ import annotations

import csv

import numpy as np

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.volume import Volume

from .conftest import write_scan


def test_scans_refusals_and_other_files_are_listed_and_written(medseg, scans, tmp_path):
    grid = Grid((8, 8, 6), np.diag([2, 2, 3, 1.0]))
    write_series(Volume(np.zeros((1, 8, 8, 6), np.float32), grid), scans / "series", patient="CANARY")
    (scans / "series" / "0003.dcm").unlink()
    cut = write_scan(scans / "cut.nii")
    cut.write_bytes(cut.read_bytes()[:100])
    (scans / "notes.txt").write_text("no scan")
    result = medseg("index", scans, "--output", tmp_path / "catalog.csv")
    assert result.exit_code == 0
    assert "3 scans" in result.stdout
    assert "MISSING_SLICE" in result.stdout
    assert "refused cut.nii" in result.stdout
    assert "1 files, NOT_A_SCAN" in result.stdout
    assert "CANARY" not in result.stdout
    rows = list(csv.DictReader((tmp_path / "catalog.csv").read_text(encoding="utf-8").splitlines()))
    assert sorted(row["status"] for row in rows) == ["accepted"] * 3 + ["refused"] * 2 + ["skipped"]
    assert sum(int(row["files"]) for row in rows) == sum(path.is_file() for path in scans.rglob("*"))


def test_nothing_usable_is_exit_code_3(medseg, tmp_path):
    (tmp_path / "empty").mkdir()
    assert medseg("index", tmp_path / "empty").exit_code == 3
