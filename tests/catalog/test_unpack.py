"""Scans in archives: catalogued like any others, the same wherever they were unpacked, and nothing left behind."""

from __future__ import annotations

import gc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from medseg.catalog import walk
from medseg.catalog.anonymous import without_names
from medseg.catalog.index import index_scans
from medseg.catalog.unpack import Archives
from medseg.errors import DatasetError, ReasonCode
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.io.nifti import write_volume
from medseg.io.scan import read_scan
from medseg.provenance import digest_files
from medseg.volume import Volume

GRID = Grid((6, 5, 4), np.diag([-1.0, -2, 3, 1]))
VOLUME = Volume(np.arange(120, dtype=np.float32).reshape(1, 6, 5, 4), GRID)


def pack(archive: Path, folder: Path) -> Path:
    """Zip the files of a folder, in an order of their own, under names that name a patient."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True):
            target.write(path, f"CANARY/{path.relative_to(folder)}")
    return archive


@pytest.fixture
def scans(tmp_path):
    """A folder with a series and two NIfTI scans in one archive each, and a loose scan."""
    root = tmp_path / "scans"
    write_series(VOLUME, tmp_path / "series", patient="CANARY")
    pack(root / "day" / "export.zip", tmp_path / "series")
    for name in ("b", "a"):
        write_volume((tmp_path / "brains" / name).with_suffix(".nii.gz"), VOLUME)
    (tmp_path / "brains" / "notes.txt").write_text("x")
    (tmp_path / "brains" / ".hidden").write_text("x")
    pack(root / "brains.ZIP", tmp_path / "brains")
    write_volume(root / "loose.nii", VOLUME)
    return root


def index(root, tmp_path, archives):
    return index_scans(root, key=tmp_path / "key", archives=archives)


def test_files_of_archives_take_their_place(scans, tmp_path):
    with Archives(tmp_path / "work") as archives:
        catalog = index(scans, tmp_path, archives)
        found = {(str(e.path), e.status, str(e.reason or ""), len(e.files)) for e in catalog.entries}
        assert found == {
            ("day/export.zip", "accepted", "", 4),
            ("brains.ZIP/000002.nii.gz", "accepted", "", 1),
            ("brains.ZIP/000003.nii.gz", "accepted", "", 1),
            ("loose.nii", "accepted", "", 1),
            ("brains.ZIP/000001", "skipped", "NOT_A_SCAN", 1),
            ("brains.ZIP/000004", "skipped", "NOT_A_SCAN", 1),
        }
        names = sorted(case.id for case in catalog.cases())
        assert [name for name in names if not name.startswith("case-")] == ["brains_000002", "brains_000003", "loose"]
        for case in catalog.cases():
            volume = read_scan(case.images[0])
            np.testing.assert_array_equal(np.sort(volume.array.ravel()), np.sort(VOLUME.array.ravel()))
        assert "CANARY" not in repr(catalog) + "".join(map(str, (tmp_path / "work").rglob("*")))
    assert list((tmp_path / "work").iterdir()) == []


def test_everything_is_the_same_wherever_it_was_unpacked(scans, tmp_path):
    def facts(workdir):
        with Archives(workdir) as archives:
            catalog = without_names(index(scans, tmp_path, archives), tmp_path / "key")
            return {
                (entry.case_id, entry.path, entry.digest, digest_files(entry.source.files) if entry.source else "")
                for entry in catalog.entries
            }

    first = facts(tmp_path / "one")
    assert first == facts(tmp_path / "two")
    assert sum(case.startswith("case-") for case, *_ in first) == 4


def test_the_series_has_the_name_that_it_has_unpacked(scans, tmp_path):
    with Archives() as archives:
        packed = {entry.case_id for entry in index(scans / "day", tmp_path, archives).entries}
    assert packed == {entry.case_id for entry in index_scans(tmp_path / "series", key=tmp_path / "key").entries}


def test_an_archive_may_be_the_whole_of_it(scans, tmp_path):
    with Archives() as archives:
        catalog = index(scans / "day" / "export.zip", tmp_path, archives)
        assert [(str(entry.path), entry.shape) for entry in catalog.entries] == [("export.zip", (6, 5, 4))]


def test_a_series_may_lie_in_an_archive_and_a_folder(tmp_path):
    source = write_series(VOLUME, tmp_path / "scans" / "series")
    (tmp_path / "rest").mkdir()
    for path in source.files[:2]:
        path.rename(tmp_path / "rest" / path.name)
    pack(tmp_path / "scans" / "rest.zip", tmp_path / "rest")
    with Archives() as archives:
        (entry,) = index(tmp_path / "scans", tmp_path, archives).entries
        assert (entry.status, entry.shape, str(entry.path)) == ("accepted", (6, 5, 4), ".")


def test_refused_archives_are_listed_with_their_reason(scans, tmp_path):
    (scans / "damaged.zip").write_bytes(b"PK\3\4 no archive")
    with zipfile.ZipFile(scans / "unsafe.zip", "w") as archive:
        archive.writestr("../CANARY", "x")
    with zipfile.ZipFile(scans / "empty.zip", "w") as archive:
        archive.writestr("CANARY/", "")
    with zipfile.ZipFile(scans / "nested.zip", "w") as archive:
        archive.writestr("CANARY.zip", "x")
    with Archives(tmp_path / "work") as archives:
        entries = index(scans, tmp_path, archives).entries
        found = {
            str(e.path): (e.status, e.reason)
            for e in entries
            if e.path.parts[0][:-4] in ("damaged", "unsafe", "empty", "nested")
        }
        assert found == {
            "damaged.zip": ("refused", ReasonCode.UNREADABLE),
            "unsafe.zip": ("refused", ReasonCode.ARCHIVE_UNSAFE),
            "empty.zip": ("skipped", ReasonCode.NOT_A_SCAN),
            "nested.zip/000001": ("refused", ReasonCode.ARCHIVE_NESTED),
        }
        assert len([entry for entry in entries if entry.status == "accepted"]) == 4
        assert not [entry for entry in entries if "CANARY" in entry.message + str(entry.path)]


def test_without_an_unpacker_archives_are_left_out(scans, tmp_path):
    entries = index_scans(scans, key=tmp_path / "key").entries
    assert [(str(e.path), e.status) for e in entries] == [
        ("loose.nii", "accepted"), ("brains.ZIP", "skipped"), ("day/export.zip", "skipped"),
    ]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_a_dicomdir_is_no_scan_and_is_not_believed(tmp_path, packed):
    source = write_series(VOLUME, tmp_path / "series", patient="CANARY")
    files = FileSet()
    for path in source.files:
        data = pydicom.dcmread(path)
        data.StudyDate, data.StudyTime = "20200101", "1200"
        files.add(data)
    files.write(tmp_path / "media")
    with warnings.catch_warnings():  # its temporary folder is removed by chance only
        warnings.simplefilter("ignore", ResourceWarning)
        del files
        gc.collect()
    listed = sorted(path for path in (tmp_path / "media").rglob("*") if path.is_file() and path.name != "DICOMDIR")
    assert len(listed) == 4
    listed[0].rename(tmp_path / "media" / "moved")  # where the DICOMDIR does not say
    if packed:
        pack(tmp_path / "scans" / "media.zip", tmp_path / "media")
    with Archives() as archives:
        entries = index(tmp_path / ("scans" if packed else "media"), tmp_path, archives).entries
        assert [(e.status, e.reason, len(e.files)) for e in entries] == [
            ("accepted", None, 4), ("skipped", ReasonCode.SKIPPED_SOP_CLASS, 1),
        ]  # fmt: skip


def test_files_of_all_archives_together_are_bounded(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "MAX_FILES", 8)
    with Archives(tmp_path / "work") as archives, pytest.raises(DatasetError, match="more than 8 files"):
        index(scans, tmp_path, archives)
    assert list((tmp_path / "work").iterdir()) == []
