"""The second index opens only what changed, and comes to the same catalogue as the first would now."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medseg.catalog import memory as memory_module
from medseg.catalog.index import index_scans
from medseg.catalog.memory import remembering
from medseg.catalog.unpack import Archives
from medseg.config import IngestConfig
from medseg.errors import OutputError
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.io.nifti import write_volume
from medseg.volume import Volume

GRID = Grid((6, 5, 4), np.diag([-1.0, -2, 3, 1]))
VOLUME = Volume(np.arange(120, dtype=np.float32).reshape(1, 6, 5, 4), GRID)
OLD = (1_600_000_000, 1_600_000_000)


class Folder:
    """A folder of scans, a catalogue's place, and which files were opened by an index."""

    def __init__(self, tmp_path, opened):
        self.root, self.catalog, self.key = tmp_path / "scans", tmp_path / "catalog.parquet", tmp_path / "key"
        self.memory = tmp_path / "catalog.parquet.memory"
        self.opened, self.note = opened, ""

    def settle(self):
        """Let all files be old enough to be remembered."""
        for path in self.root.rglob("*"):
            os.utime(path, OLD)

    def index(self, policy=None):
        """Index with the memory; return what must be the same again."""
        self.opened.clear()
        with Archives() as archives, remembering(self.catalog, self.root, policy or IngestConfig()) as memory:
            catalog = index_scans(self.root, key=self.key, archives=archives, memory=memory)
            self.note = memory.note
            facts = [(e.status, e.case_id, e.reason, e.path, e.shape, e.flags, e.digest) for e in catalog.entries]
        names = {path.name for path in self.opened}
        return facts, names

    def afresh(self):
        """Index without a memory."""
        with Archives() as archives:
            catalog = index_scans(self.root, key=self.key, archives=archives)
            return [(e.status, e.case_id, e.reason, e.path, e.shape, e.flags, e.digest) for e in catalog.entries]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two series, one with its slices twice, three NIfTI files, an archive, and what is no scan."""
    from medseg.catalog import dicom_index, index, unpack

    opened = []

    def spy(module, name, paths):
        function = getattr(module, name)

        def told(first, *others, **options):
            opened.extend(paths(first))
            return function(first, *others, **options)

        monkeypatch.setattr(module, name, told)

    spy(dicom_index, "read_many", list)
    for module, name in (
        (dicom_index, "pixel_digest"), (index, "inspect_nifti"), (unpack, "list_archive"), (unpack, "unpack_archive")
    ):  # fmt: skip
        spy(module, name, lambda path: [path])
    made = Folder(tmp_path, opened)
    write_series(VOLUME, made.root / "one", description="one", patient="CANARY")
    write_series(VOLUME, made.root / "two", description="two")
    shutil.copytree(made.root / "two", made.root / "copy")
    for name in ("a.nii", "b.nii.gz", "c.nii"):
        write_volume(made.root / name, VOLUME)
    write_volume(tmp_path / "packed.nii", VOLUME)
    with zipfile.ZipFile(made.root / "d.zip", "w") as archive:
        archive.write(tmp_path / "packed.nii", "packed.nii")
    (made.root / "notes.txt").write_text("hello")
    (made.root / "broken.nii").write_bytes(b"hello" * 200)
    made.settle()
    return made


def test_nothing_sound_is_opened_twice(folder):
    first, opened = folder.index()
    assert {"0001.dcm", "a.nii", "b.nii.gz", "notes.txt", "d.zip", "broken.nii"} <= opened
    assert (first, folder.note) == (folder.afresh(), "")
    for _ in range(2):
        again, opened = folder.index()
        assert (again, folder.note) == (first, "")
        assert opened == {"broken.nii"}  # an error may pass by itself: it is looked at again


def test_changed_new_and_removed_files_are_seen(folder):
    folder.index()
    data = pydicom.dcmread(folder.root / "one" / "0002.dcm")
    data.SeriesInstanceUID = generate_uid()
    data.save_as(folder.root / "one" / "0002.dcm")
    os.utime(folder.root / "one" / "0002.dcm", (OLD[0] + 1, OLD[1] + 1))
    write_volume(folder.root / "new.nii", VOLUME)
    (folder.root / "a.nii").unlink()
    shutil.rmtree(folder.root / "copy")
    found, opened = folder.index()
    assert opened == {"0002.dcm", "new.nii", "broken.nii"}
    assert found == folder.afresh()
    assert ("refused", "MISSING_SLICE") in {(row[0], str(row[2])) for row in found}


def test_a_file_put_in_the_place_of_another_is_seen_by_its_number(folder):
    folder.index()
    other = folder.root.parent / "other.nii"
    write_volume(other, Volume(VOLUME.array, Grid((6, 5, 4), np.diag([2.0, 2, 3, 1]))))
    assert other.stat().st_size == (folder.root / "a.nii").stat().st_size
    os.utime(other, OLD)
    other.replace(folder.root / "a.nii")
    found, opened = folder.index()
    assert "a.nii" in opened
    assert found == folder.afresh()


def test_a_changed_archive_is_unpacked_again(folder):
    folder.index()
    with zipfile.ZipFile(folder.root / "d.zip", "a") as archive:
        archive.write(folder.root.parent / "packed.nii", "more.nii")
    os.utime(folder.root / "d.zip", OLD)
    found, opened = folder.index()
    assert opened == {"d.zip", "000001.nii", "000002.nii", "broken.nii"}
    assert found == folder.afresh()


def test_files_that_changed_just_now_are_not_remembered(folder):
    (folder.root / "a.nii").touch()
    folder.index()
    assert folder.index()[1] == {"a.nii", "broken.nii"}


def damage(folder):
    folder.memory.write_bytes(b"SQLite format 3\0" + b"junk" * 500)


def truncate(folder):
    folder.memory.write_bytes(folder.memory.read_bytes()[:9000])


def open_to_others(folder):
    folder.memory.chmod(0o644)


def of_another_root(folder):
    folder.root.rename(folder.root.with_name("moved"))
    folder.root = folder.root.with_name("moved")


def of_another_version(folder):
    with sqlite3.connect(folder.memory) as database:
        database.execute("UPDATE made SET by = 'another'")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (damage, "damaged"),
        (truncate, "damaged"),
        pytest.param(
            open_to_others,
            "others can read",
            marks=pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX"),
        ),
        (of_another_root, "another folder"),
        (of_another_version, "another folder, version"),
    ],
)
def test_a_memory_that_is_not_to_be_believed_is_made_again(folder, change, note):
    folder.index()
    change(folder)
    found, opened = folder.index()
    assert note in folder.note
    assert {"0001.dcm", "a.nii"} <= opened
    assert found == folder.afresh()
    assert (folder.index(), folder.note) == ((found, {"broken.nii"}), "")


def test_a_memory_that_can_not_be_opened_is_made_again(folder, monkeypatch):
    first, _ = folder.index()
    connect = sqlite3.connect

    def refuse(place, **options):
        if options.get("uri"):  # only the old one is opened by an address
            raise sqlite3.OperationalError("unable to open database file")
        return connect(place, **options)

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert folder.index()[0] == first
    assert folder.note == "it can't be opened"


def test_a_fact_that_makes_no_sense_costs_its_file_only(folder):
    first, _ = folder.index()
    with sqlite3.connect(folder.memory) as database:
        database.execute("UPDATE facts SET facts = '[{\"path\": 3}]' WHERE place = CAST('a.nii' AS BLOB)")
    assert folder.index() == (first, {"a.nii", "broken.nii"})
    assert folder.index() == (first, {"broken.nii"})


def test_another_policy_reads_again(folder):
    folder.index()
    _, opened = folder.index(IngestConfig(no_spatial_codes="warn"))
    assert "a.nii" in opened
    assert "policy" in folder.note


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_only_the_owner_reads_the_memory(folder):
    folder.index()
    assert b"CANARY" in folder.memory.read_bytes()  # what patients are told apart by
    assert stat.S_IMODE(folder.memory.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.root.parent.glob("*catalog*")) == ["catalog.parquet.memory"]


def test_a_failed_index_leaves_the_memory_as_it_was(folder):
    folder.index()
    before = folder.memory.read_bytes()
    with pytest.raises(ZeroDivisionError), remembering(folder.catalog, folder.root, IngestConfig()):
        raise ZeroDivisionError
    assert folder.memory.read_bytes() == before


def test_a_place_that_can_not_be_written_is_said(folder):
    with (
        pytest.raises(OutputError, match="can't write"),
        remembering(folder.root / "notes.txt" / "c.csv", folder.root, IngestConfig()),
    ):
        pass


def test_a_change_of_what_is_kept_makes_another_kind_of_it():
    from pydantic import TypeAdapter

    kinds = [memory_module.Kind("x", TypeAdapter(type_)) for type_ in (int, str)]
    assert kinds[0].name != kinds[1].name
