"""Every file of a tree is accounted for, and nothing in the tables names a patient."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import polars
import pydicom
import pytest
from pydicom.uid import generate_uid

from medseg.batch.listing import list_cases
from medseg.catalog import walk
from medseg.catalog.anonymous import without_names
from medseg.catalog.dicom_index import index_dicom
from medseg.catalog.entries import Places
from medseg.catalog.index import index_scans
from medseg.catalog.index_run import IndexRun
from medseg.catalog.table import write_catalog
from medseg.errors import DatasetError, OutputError, ReasonCode
from medseg.geometry import Grid
from medseg.io import dicom_pool
from medseg.io.dicom_write import write_series
from medseg.io.nifti import write_volume
from medseg.io.scan import read_scan
from medseg.volume import Volume

DATA = os.environ.get("MEDSEG_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="MEDSEG_DATA does not name the folder of real scans")

GRID = Grid((6, 5, 4), np.array([[-1.0, 0, 0, 5], [0, -2, 0, 6], [0, 0, 3, -7], [0, 0, 0, 1]]))
VOLUME = Volume(np.arange(120, dtype=np.float32).reshape(1, 6, 5, 4), GRID)


@pytest.fixture
def tree(tmp_path):
    """A folder to fill, and the index of it."""

    class Tree:
        root = tmp_path / "scans"

        def index(self, root=None):
            return index_scans(root or self.root, key=tmp_path / "test.key")

        def series(self, folder, **options):
            return write_series(VOLUME, self.root / folder, **options)

        def nifti(self, name):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            write_volume(self.root / name, VOLUME)
            return self.root / name

    Tree.root.mkdir()
    return Tree()


def summary(catalog):
    return sorted((str(e.path), e.status, str(e.reason or ""), len(e.files)) for e in catalog.entries)


def test_mixed_tree_is_accounted_for_file_by_file(tree):
    tree.series("ct/one", description="one")
    source = tree.series("flat", description="two")
    tree.series("more", description="three")
    for path in source.files[:2]:  # one series spread over two folders
        shutil.move(path, tree.root / "more" / f"moved_{path.name}")
    tree.nifti("brain.nii.gz")
    (tree.root / "notes.txt").write_text("hello")
    (tree.root / "fake.dcm").write_text("hello")
    (tree.root / "broken.nii.gz").write_bytes(b"hello" * 200)
    (tree.root / "scans.zip").write_bytes(b"PK")
    (tree.root / ".hidden").write_text("")
    (tree.root / "empty").write_text("")
    catalog = tree.index()
    assert summary(catalog) == [
        (".", "accepted", "", 4),
        (".hidden", "skipped", "NOT_A_SCAN", 1),
        ("brain.nii.gz", "accepted", "", 1),
        ("broken.nii.gz", "refused", "NOT_A_SCAN", 1),
        ("ct/one", "accepted", "", 4),
        ("empty", "skipped", "NOT_A_SCAN", 1),
        ("fake.dcm", "skipped", "NOT_DICOM", 1),
        ("more", "accepted", "", 4),
        ("notes.txt", "skipped", "NOT_A_SCAN", 1),
        ("scans.zip", "skipped", "NOT_A_SCAN", 1),
    ]
    assert sum(len(entry.files) for entry in catalog.entries) == sum(p.is_file() for p in tree.root.rglob("*"))
    assert [entry.status for entry in catalog.entries] == ["accepted"] * 4 + ["refused"] + ["skipped"] * 5
    assert len({case.id for case in catalog.cases()}) == 4
    for case in catalog.cases():
        volume = read_scan(case.images[0])
        np.testing.assert_array_equal(np.sort(volume.array.ravel()), np.sort(VOLUME.array.ravel()))
        np.testing.assert_allclose(sorted(map(tuple, volume.grid.corners())), sorted(map(tuple, GRID.corners())))
    entry = next(entry for entry in catalog.entries if entry.modality == "CT")
    assert (entry.shape, entry.spacing, entry.axcodes) == ((6, 5, 4), (1, 2, 3), "LPS")
    assert [e.message for e in catalog.with_status("skipped") if "zip" in str(e.path)] == [
        "an archive; unpack it to have its scans read"
    ]


def test_root_may_be_a_file_or_a_single_series(tree):
    source = tree.series("ct")
    scan = tree.nifti("brain.nii.gz")
    assert summary(tree.index(tree.root / "ct")) == [(".", "accepted", "", 4)]
    assert summary(tree.index(scan)) == [("brain.nii.gz", "accepted", "", 1)]
    assert summary(tree.index(source.files[0])) == [("0001.dcm", "accepted", "", 1)]


def test_missing_root(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        index_scans(tmp_path / "nowhere")


def test_a_root_that_cannot_be_opened_is_told(tree, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(walk.os, "scandir", refuse)
    with pytest.raises(DatasetError, match=r"can't be opened \(Permission denied\)"):
        tree.index()


def test_folders_that_were_not_finished_hold_no_scans(tree):
    tree.nifti("brain.nii.gz")
    tree.nifti(".hidden/brain.nii.gz")
    tree.nifti(".tmp-0123-4-abcd/brain.nii.gz")
    assert summary(tree.index()) == [
        (".hidden/brain.nii.gz", "accepted", "", 1),
        (".tmp-0123-4-abcd", "skipped", "NOT_A_SCAN", 1),
        ("brain.nii.gz", "accepted", "", 1),
    ]


def test_messages_keep_their_numbers_where_dicom_files_are_called_by_numbers(tree, tmp_path):
    for number, path in enumerate(tree.series("ct").files):
        path.rename(path.with_name(str(number)))
    (tree.root / "ct" / "2").unlink()
    catalog = tree.index()
    messages = [entry.message for entry in without_names(catalog, tmp_path / "test.key").entries]
    assert messages == [entry.message for entry in catalog.entries]
    assert "1 slice(s)" in messages[0]


def test_only_the_owner_reads_a_catalogue(tree, tmp_path):
    tree.nifti("anna.nii.gz")
    for name in ("catalog.csv", "catalog.parquet"):
        write_catalog(tree.index(), tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_empty_root_has_no_entries(tree):
    assert tree.index().entries == ()


def test_pair_is_one_scan(tree):
    import nibabel as nib

    nib.save(nib.Nifti1Pair(np.zeros((3, 4, 5), np.int16), np.eye(4)), tree.root / "pair.hdr")
    (tree.root / "lone.hdr").write_bytes((tree.root / "pair.hdr").read_bytes())
    catalog = tree.index()
    assert summary(catalog) == [("lone.hdr", "refused", "UNREADABLE", 1), ("pair.hdr", "accepted", "", 2)]
    assert read_scan(catalog.cases()[0].images[0]).grid.shape == (3, 4, 5)
    assert summary(tree.index(tree.root / "pair.img")) == [("pair.img", "accepted", "", 1)]


def test_pairs_of_several_channels_are_joined(tree):
    import nibabel as nib

    for number in (0, 1):
        image = nib.Nifti1Pair(np.zeros((3, 4, 5), np.int16), np.eye(4))
        nib.save(image, tree.root / f"scan_000{number}.hdr")
    listing = list_cases(tree.index(), channels=2)
    assert [(case.id, len(case.images)) for case in listing.cases] == [("scan", 2)]
    assert listing.sources == {"scan": Path("scan_0000.hdr")}


def test_what_is_no_volume_is_refused_or_skipped_by_series(tree):
    missing = tree.series("missing", description="missing")
    missing.files[1].unlink()
    tree.series("good", description="good")
    for path in (tree.root / "good").iterdir():
        shutil.copy(path, tree.root / f"copy_{path.name}")
    report = pydicom.dcmread(missing.files[0])
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    report.SeriesInstanceUID = generate_uid()
    report.save_as(tree.root / "report")
    scout = pydicom.dcmread(missing.files[0])
    scout.ImageType, scout.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], generate_uid()
    scout.save_as(tree.root / "scout")
    catalog = tree.index()
    assert summary(catalog) == [
        (".", "accepted", "", 4),
        ("good", "skipped", "DUPLICATE", 4),
        ("missing", "refused", "MISSING_SLICE", 3),
        ("report", "skipped", "SKIPPED_SOP_CLASS", 1),
        ("scout", "skipped", "LOCALIZER", 1),
    ]
    assert catalog.with_status("accepted")[0].flags == (ReasonCode.DUPLICATE,)
    assert catalog.with_status("refused")[0].case_id.startswith("case-")


def test_phases_become_cases_of_their_own(tree):
    source = tree.series("ct")
    for path in source.files:
        data = pydicom.dcmread(path)
        data.SOPInstanceUID, data.AcquisitionNumber = generate_uid(), 2
        data.PixelData = (data.pixel_array + 300).astype(np.int16).tobytes()
        data.save_as(tree.root / "ct" / f"late_{path.name}")
    catalog = tree.index()
    assert [len(entry.files) for entry in catalog.entries] == [4, 4]
    assert all(entry.flags == (ReasonCode.PHASES,) for entry in catalog.entries)
    means = sorted(read_scan(case.images[0]).array.mean() for case in catalog.cases())
    assert means[1] - means[0] == pytest.approx(300)
    assert len({case.patient for case in catalog.cases()}) == 1


def test_names_of_cases_are_stable_and_keyed(tree, tmp_path):
    source = tree.series("ct", patient="someone")
    tree.series("other", patient="someone", description="other")
    before = {entry.digest: entry.case_id for entry in tree.index().entries}
    shutil.move(source.files[0].parent, tree.root / "renamed")
    assert {entry.digest: entry.case_id for entry in tree.index().entries} == before
    other_key = index_scans(tree.root, key=tmp_path / "another.key")
    assert not {entry.case_id for entry in other_key.entries} & set(before.values())
    assert len({entry.patient for entry in other_key.entries}) == 1


def test_copies_without_any_uid_get_names_of_their_own(tree):
    source = tree.series("a")
    for path in source.files:
        data = pydicom.dcmread(path)
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            setattr(data, keyword, "")
        data.save_as(path)
    shutil.copytree(tree.root / "a", tree.root / "b")
    entries = tree.index().with_status("accepted")
    assert len({entry.case_id for entry in entries}) == len(entries) == 2


def test_names_that_are_no_text_name_slices_without_any_uid(tree):
    source = tree.series("a")
    for path in source.files:
        data = pydicom.dcmread(path)
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(data, keyword, "")
        data.file_meta.MediaStorageSOPInstanceUID = ""
        data.save_as(path, enforce_file_format=False)
        path.rename(path.with_name(os.fsdecode(b"M\xfcller " + os.fsencode(path.name))))
    (entry,) = tree.index().with_status("accepted")
    assert entry.case_id.startswith("case-")


def test_pixels_that_can_not_be_read_under_a_name_that_is_no_text_are_no_copies(tree, monkeypatch):
    def fail(path):
        raise ValueError

    monkeypatch.setattr("medseg.io.dicom._parse", fail)
    for folder in ("a", os.fsdecode(b"\xfc")):
        tree.series(folder)
    (entry,) = tree.index().entries
    assert entry.reason == ReasonCode.CONFLICT


def test_digest_changes_with_a_file(tree):
    scan = tree.nifti("brain.nii.gz")
    before = tree.index().entries[0].digest
    assert tree.index().entries[0].digest == before
    os.utime(scan, ns=(1, 1))
    assert tree.index().entries[0].digest != before


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_links_loops_and_pipes(tree):
    tree.nifti("a/brain.nii.gz")
    (tree.root / "a" / "loop").symlink_to(tree.root)
    (tree.root / "again").symlink_to(tree.root / "a")
    (tree.root / "dangling.nii").symlink_to(tree.root / "nothing")
    os.mkfifo(tree.root / "pipe.dcm")
    catalog = tree.index()
    assert [(e.status, e.reason) for e in catalog.entries] == [
        ("accepted", None),
        ("refused", ReasonCode.UNREADABLE),
        ("skipped", ReasonCode.NOT_A_SCAN),
    ]


def test_walk_is_bounded(tree, monkeypatch):
    for number in range(4):
        (tree.root / f"{number}").write_text("")
    (tree.root / "x" / "y" / "z").mkdir(parents=True)
    monkeypatch.setattr(walk, "MAX_DEPTH", 2)
    assert ("x/y/z", "refused", "UNREADABLE", 1) in summary(tree.index())
    monkeypatch.setattr(walk, "MAX_FILES", 3)
    with pytest.raises(DatasetError, match="more than 3 files"):
        tree.index()


def test_tables_hold_no_patient_data_and_no_formulas(tree, tmp_path):
    source = tree.series("ct", patient="CANARY^PATIENT", description="CANARY series")
    tree.series("cut", patient="CANARY^PATIENT", description="CANARY cut").files[2].unlink()
    data = pydicom.dcmread(source.files[0])
    data.SOPClassUID, data.SeriesInstanceUID = "1.2.3", generate_uid()
    with pytest.warns(UserWarning, match="Invalid value"):
        data.Modality = "=CANARY()"
    data.save_as(tree.root / "odd")
    (tree.root / "@SUM(A1)\x1b[2J.txt").write_text("hostile name")
    tree.nifti("=1+1.nii")
    catalog = tree.index()
    for name in ("catalog.csv", "catalog.parquet"):
        write_catalog(catalog, tmp_path / name)
    text = (tmp_path / "catalog.csv").read_text()
    uids = {str(data.StudyInstanceUID), str(data.SeriesInstanceUID), str(data.SOPInstanceUID)}
    assert not [secret for secret in ("CANARY", "\x1b", *uids) if secret in text + repr(catalog.entries)]
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(catalog.entries)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@")]
    frame = polars.read_parquet(tmp_path / "catalog.parquet")
    assert frame["files"].sum() == sum(p.is_file() for p in tree.root.rglob("*"))
    assert frame.filter(polars.col("modality") == "CT")["spacing_z_mm"].drop_nulls().to_list() == [3.0]


def test_table_of_another_format_is_refused(tree, tmp_path):
    with pytest.raises(OutputError, match=r"\.csv or \.parquet"):
        write_catalog(tree.index(), tmp_path / "catalog.xlsx")


def test_worker_processes_give_the_same_answers(tree, tmp_path, monkeypatch):
    tree.series("ct")
    cut = tree.series("cut", description="cut").files[1]
    cut.write_bytes(cut.read_bytes()[:-50])
    (tree.root / "damaged").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    (tree.root / "notes.txt").write_text("hello")
    found, run = walk.walk_files(tree.root), IndexRun(Places(tree.root), tmp_path / "test.key")
    alone = index_dicom(found, run)
    read_headers, here = dicom_pool.read_headers, []
    monkeypatch.setattr(dicom_pool, "read_headers", lambda path: here.append(path) or read_headers(path))
    monkeypatch.setattr(dicom_pool, "MIN_FILES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert index_dicom(found, run) == alone
    assert len(here) == len(found) // 3, "else the others did nothing, and this process all in the end"
    monkeypatch.setattr(dicom_pool.sys, "executable", shutil.which("false"))
    assert index_dicom(found, run) == alone  # a worker that dies loses nothing
    assert {entry.reason for entry in alone} >= {ReasonCode.TRUNCATED, ReasonCode.UNREADABLE, ReasonCode.NOT_A_SCAN}


@needs_data
def test_real_study_is_five_series(tmp_path):
    catalog = index_scans(Path(DATA) / "mr" / "dicom_study", key=tmp_path / "test.key")
    assert [len(entry.files) for entry in catalog.entries] == [22, 40, 22, 22, 22]
    assert {entry.status for entry in catalog.entries} == {"accepted"}
    assert {entry.modality for entry in catalog.entries} == {"MR"}


@needs_data
def test_real_data_are_accepted_whole(tmp_path):
    root = Path(DATA) / "ct"
    entries = index_scans(root, key=tmp_path / "test.key").entries
    assert sum(len(entry.files) for entry in entries) == sum(path.is_file() for path in root.rglob("*"))
    assert [e.shape for e in entries if e.modality == "CT"] == [(512, 512, 20)]
    assert not [entry for entry in entries if entry.status == "refused"]
