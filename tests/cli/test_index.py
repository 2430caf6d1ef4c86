"""``medseg index``: every file is accounted for, refusals are said in words."""

from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path

import numpy as np
import polars
import pytest

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.volume import Volume

from ..catalog.studies import write_study
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


@pytest.fixture
def packed(scans, tmp_path) -> Path:
    """The folder of scans with two series of one study in an archive, and an archive that can't be opened."""
    write_study(tmp_path / "study", "thin", spacing=1.0)
    write_study(tmp_path / "study", "thick", spacing=4.0)
    with zipfile.ZipFile(scans / "export.zip", "w") as archive:
        for path in sorted((tmp_path / "study").rglob("*.dcm")):
            archive.write(path, f"CANARY/{path.parent.name}/{path.name}")
    (scans / "cut.zip").write_bytes((scans / "export.zip").read_bytes()[:-200])
    return scans


def test_an_archive_is_read_and_wiped_and_the_next_index_leaves_it_closed(medseg, packed, tmp_path, monkeypatch):
    for path in packed.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    words = ["index", packed, "-o", tmp_path / "catalog.parquet", "--workdir", tmp_path / "work"]
    first = medseg(*words)
    assert first.exit_code == 0
    assert "5 scans" in first.stdout
    assert "refused cut.zip (UNREADABLE): a zip archive is damaged" in first.stdout
    assert list((tmp_path / "work").iterdir()) == []
    before = polars.read_parquet(tmp_path / "catalog.parquet")
    assert sorted(before["path"]).count("export.zip") == 2

    def unexpected(archive, folder):
        raise AssertionError(archive)

    monkeypatch.setattr("medseg.catalog.unpack.unpack_archive", unexpected)
    again = medseg(*words)
    assert again.stdout == first.stdout
    assert polars.read_parquet(tmp_path / "catalog.parquet").equals(before)


def test_a_page_shows_pictures_of_archives_that_were_not_unpacked_again(medseg, packed, tmp_path):
    for path in packed.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    words = ["index", packed, "-o", tmp_path / "catalog.csv", "--html", tmp_path / "page.html"]
    for _ in range(2):
        assert medseg(*words).exit_code == 0
        assert (tmp_path / "page.html").read_text().count("data:image/") == 5
        (tmp_path / "page.html").unlink()


def test_a_memory_that_is_not_believed_is_said(medseg, scans, tmp_path):
    (tmp_path / "catalog.csv.memory").write_text("junk")
    (tmp_path / "catalog.csv.memory").chmod(0o600)
    assert "everything was read again: what the last index remembered is not used, because it is damaged" in medseg(
        "index", scans, "-o", tmp_path / "catalog.csv"
    ).stdout.replace("\n", " ")
    assert "read again" not in medseg("index", scans, "-o", tmp_path / "catalog.csv").stdout


def test_rules_choose_and_the_catalogue_says_why(medseg, packed, tmp_path):
    (tmp_path / "rules.yaml").write_text("rules: [{modality: [CT]}]")
    result = medseg("index", packed, "-o", tmp_path / "catalog.csv", "--series-rule", tmp_path / "rules.yaml")
    assert result.exit_code == 0
    assert "left out: 12 files, NOT_SELECTED: " in result.stdout
    assert "and 7 more" in result.stdout
    rows = list(csv.DictReader((tmp_path / "catalog.csv").read_text(encoding="utf-8").splitlines()))
    assert {(row["rank"], row["status"], row["reason"], row["message"]) for row in rows if row["rank"]} == {
        ("1", "accepted", "", "meets rule 1: 12 slices, 1 mm apart, axial"),
        ("2", "skipped", "NOT_SELECTED", "its slices are 4 mm apart, another's 1"),
    }
    assert len({row["study"] for row in rows if row["rank"]}) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--series-rule", "nowhere.yaml"], "no such file"),
        (["-o", "catalog.xlsx"], "written as .csv or .parquet"),
        (["--policy", "MISSING_SLICE"], "CODE=policy"),
    ],
)
def test_wrong_options_end_before_anything_is_read(medseg, scans, words, complaint, monkeypatch):
    monkeypatch.setattr("medseg.catalog.index.walk_files", lambda root: pytest.fail("the folder was read"))
    result = medseg("index", scans, *words)
    assert (result.exit_code, complaint in result.stderr) == (2, True)
