"""Names of files and folders steer neither the terminal nor the tables, and links lead to nothing unwanted."""

from __future__ import annotations

import csv
import os

import pytest

from medseg.io.tables import write_csv

from ..cli.conftest import write_scan

pytestmark = pytest.mark.skipif(os.name != "posix", reason="names and links of POSIX")

CLEAR = "\x1b[2J\x1b]0;owned\x07"
HOSTILE = f"scan{CLEAR}\x9b31m\rok\u202e"


def steers(text: str) -> list[str]:
    return [letter for letter in text if not letter.isprintable() and letter != "\n"]


@pytest.fixture
def hostile(tmp_path):
    """A sound and a broken scan, a broken DICOM file and a folder, all with names that steer a terminal."""
    folder = tmp_path / "scans"
    write_scan(folder / f"good{HOSTILE}.nii.gz")
    write_scan(folder / f"nan{HOSTILE}" / "same.nii")
    cut = write_scan(folder / f"cut{HOSTILE}.nii.gz", 1)
    cut.write_bytes(cut.read_bytes()[:-200])
    (folder / f"empty{HOSTILE}.nii").write_bytes(b"")
    (folder / f"fake{HOSTILE}.dcm").write_bytes(bytes(128) + b"DICM" + bytes(20))
    (folder / os.fsdecode(b"no\xff\xfetext.nii")).write_bytes(b"x")
    return folder


def test_escape_sequences_in_names_reach_no_screen(medseg, model, hostile, tmp_path):
    output, table = tmp_path / "out", tmp_path / "catalog.csv"
    for words in (["index", hostile, "-o", table], ["segment", hostile, "-m", model, "-o", output]):
        result = medseg(*words)
        assert result.exit_code in (0, 1), result.output
        assert steers(result.stdout) == steers(result.stderr) == []
        assert "cut" in result.stdout
    for path in [table, *output.glob("*.csv")]:
        assert steers(path.read_text(encoding="utf-8")) == [], path.name


def test_escape_sequences_in_an_error_reach_no_screen(medseg, model, tmp_path):
    result = medseg("segment", tmp_path / f"nowhere{CLEAR}", "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "nowhere?[2J" in result.stderr
    assert steers(result.stderr) == []


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path):
    write_csv(tmp_path / "table.csv", ["source"], [[os.fsdecode(b"no\xfftext")], [f"a{CLEAR}"], ["\t=1"]])
    rows = list(csv.reader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert rows == [["source"], ["no?text"], ["a?[2J?]0;owned?"], ["'?=1"]]


def test_names_of_files_are_no_paths(medseg, model, tmp_path):
    for seed, name in enumerate(("a..", "-rf", "~", "con", "=cmd()")):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", seed)
    before = set(tmp_path.iterdir())
    assert medseg("segment", tmp_path / "scans", "-m", model, "-o", tmp_path / "out").exit_code == 0
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "out", tmp_path / "config"}
    cases = [path.name for path in (tmp_path / "out" / "cases").iterdir()]
    assert len(cases) == 5
    assert not [name for name in cases if name.startswith((".", "-", "="))]


def test_links_are_followed_once_and_nothing_behind_them_is_written(medseg, model, tmp_path):
    scans, archive = tmp_path / "scans", tmp_path / "archive"
    inside, outside = write_scan(scans / "inside.nii.gz"), write_scan(archive / "outside.nii.gz", 1)
    (scans / "loop").symlink_to(scans)
    (scans / "out").symlink_to(archive)
    (archive / "back").symlink_to(scans)
    (scans / "nothing.nii").symlink_to(tmp_path / "nothing")
    (scans / "self").symlink_to(scans / "self")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (inside, outside)}
    result = medseg("segment", scans, "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert {path.name for path in (tmp_path / "out" / "cases").iterdir()} == {"inside", "outside"}
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert {path.name for path in scans.iterdir()} == {"inside.nii.gz", "loop", "out", "nothing.nii", "self"}
    assert {path.name for path in archive.iterdir()} == {"outside.nii.gz", "back"}


@pytest.mark.parametrize("link", ["folder", "file"])
def test_an_output_that_a_link_in_the_scans_leads_to_is_refused(medseg, model, tmp_path, link):
    """Else the second run would segment the masks of the first, or write over what it reads."""
    scans, output = tmp_path / "scans", tmp_path / "out"
    write_scan(scans / "scan.nii.gz")
    assert medseg("segment", scans, "-m", model, "-o", output).exit_code == 0
    target = output if link == "folder" else output / "cases" / "scan" / "mask.nii.gz"
    (scans / ("results" if link == "folder" else "mask.nii.gz")).symlink_to(target)
    result = medseg("segment", scans, "-m", model, "-o", output)
    assert result.exit_code == 2
    assert "link" in result.stderr
    assert len(list((output / "cases").iterdir())) == 1
