"""A mark in every place that may name a patient is in no output and on no screen."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medseg.batch.listing import list_cases
from medseg.batch.summary import DONE
from medseg.catalog.anonymous import PSEUDONYM, without_names
from medseg.catalog.index import index_scans
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.volume import Volume

from ..cli.conftest import write_scan

MARK = "KANARIENVOGEL"
HOSTILE = f"{MARK} <script>alert(1)</script> =cmd() ../../x"
FIELDS = ("PatientName", "PatientID", "SeriesDescription", "StudyDescription", "InstitutionName", "AccessionNumber")


def write_dicom(folder: Path, seed: int) -> Path:
    """Write a series with the mark in all that names a patient, and in its identifiers."""
    grid = Grid((20, 18, 12), np.diag([-2.0, -2.0, 3.0, 1.0]))
    volume = Volume(np.random.default_rng(seed).normal(0, 50, (1, *grid.shape)).astype(np.float32), grid)
    for path in write_series(volume, folder, seed=seed).files:
        data = pydicom.dcmread(path)
        for field in FIELDS:
            setattr(data, field, HOSTILE if field == "SeriesDescription" else f"{MARK}{seed}")
        data.PatientBirthDate = "19010203"
        data.save_as(path)
    return folder


def write_nifti(path: Path, seed: int) -> Path:
    """Write a scan with the mark in every free text of its header."""
    scan = nib.load(write_scan(path, seed))
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        scan.header[field] = MARK.encode()
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", MARK.encode()))
    changed = path.with_name(f"changed_{path.name}")
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), None, scan.header), changed)
    changed.replace(path)
    return path


def texts_of(path: Path) -> bytes:
    """Return a file's bytes, and what its compressed parts hold."""
    raw = path.read_bytes()
    parts = [raw]
    if raw.startswith(b"\x1f\x8b"):
        parts.append(gzip.decompress(raw))
    if raw.startswith(b"NRRD"):
        parts.append(zlib.decompressobj(wbits=31).decompress(raw.partition(b"\n\n")[2]))
    if raw.startswith(b"\x89PNG"):
        parts += [_inflated(chunk) for chunk in _chunks(raw)]
    return b"\n".join(parts)


def _chunks(raw: bytes):
    place = 8
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "big")
        if raw[place + 4 : place + 8] in (b"zTXt", b"iTXt", b"eXIf"):
            yield raw[place + 8 : place + 8 + size]
        place += 12 + size


def _inflated(chunk: bytes) -> bytes:
    start = chunk.find(b"\x78")
    return zlib.decompressobj().decompress(chunk[start:]) if start >= 0 else chunk


def told(folder: Path, marks: tuple[str, ...], *, but: tuple[str, ...]) -> list[str]:
    """Return the outputs that hold a mark in any common encoding, in their names or in their bytes."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(name == one or f"/{one}" in name for one in but):
            continue
        texts = name.encode() + b"\n" + (texts_of(path) if path.is_file() else b"")
        if any(mark.encode(code) in texts for mark in marks for code in ("utf-8", "utf-16-le")):
            found.append(name)
    return found


@pytest.fixture
def marked(tmp_path):
    """Sound and unsound scans of both kinds, all marked; their files' names are not."""
    scans = tmp_path / "scans"
    write_nifti(scans / "sound.nii.gz", 1)
    write_nifti(scans / "plain.nii", 2)
    cut = write_nifti(scans / "cut.nii", 3)
    cut.write_bytes(cut.read_bytes()[:-300])
    write_dicom(scans / "ct", 4)
    (write_dicom(scans / "gap", 5) / "0005.dcm").unlink()
    broken = sorted(write_dicom(scans / "broken", 6).iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:-400])
    return scans


def test_the_marks_are_where_they_should_be(marked):
    for path in marked.rglob("*"):
        assert path.is_dir() or MARK.encode() in texts_of(path), path


@pytest.mark.parametrize("debug", [False, True], ids=["", "with tracebacks"])
def test_what_headers_say_of_patients_is_in_no_output(guarded, model, marked, tmp_path, debug):
    output, table = tmp_path / "out", tmp_path / "catalog.csv"
    words = ["segment", marked, "-m", model, "-o", output, "--formats", "nifti,seg-nrrd,dicom-seg", "--per-class"]
    first = ["--debug"] if debug else []
    done = guarded([*first, *words], [*first, "index", marked, "-o", table])
    assert done.code == 1, done.screen
    assert {"report.html", "worklist.csv", "cases.csv", "measures.csv", "sources.csv", "run.json", "labels.csv"} <= {
        path.name for path in output.iterdir()
    }
    assert len(list(output.glob("cases/*/overlay.png"))) == 3
    assert len(list(output.glob("cases/*/dicom/segmentation.dcm"))) == 1
    for mark in (MARK, "19010203"):
        assert mark not in done.screen
        assert mark not in table.read_text(encoding="utf-8")
    assert told(output, (MARK, "19010203"), but=("dicom/segmentation.dcm",)) == []


@pytest.fixture
def named(tmp_path):
    """Scans whose files and folders are called by the mark: sound ones, and every way of being refused or failing."""
    scans = tmp_path / MARK
    sound = write_scan(scans / f"{MARK}.nii.gz", 1)
    raw = gzip.decompress(sound.read_bytes())
    write_scan(scans / MARK / "a" / f"{MARK}\x1b.nii", 2)
    (scans / MARK / "b").mkdir()
    (scans / MARK / "b" / f"{MARK}.nii").write_bytes(raw)
    for name, content in {
        "cut.nii": raw[:-300],
        "cut.nii.gz": sound.read_bytes()[:-300],
        "broken.nii.gz": sound.read_bytes()[:500] + bytes(400),
        "empty.nii": b"",
        "text.nii": b"hello" * 200,
        "half.hdr": raw[:348],
        "nowhere.nii": raw[:252] + bytes(4) + raw[256:],
    }.items():
        (scans / f"{MARK}_{name}").write_bytes(content)
    array = np.ones((8, 8, 8), np.float32)
    nib.save(nib.Nifti1Image(np.where(np.arange(8) == 3, np.nan, array), np.eye(4)), scans / f"{MARK}_nan.nii")
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 3), np.float32), np.eye(4)), scans / f"{MARK}_4d.nii")
    nib.save(nib.Nifti1Pair(np.full((8, 8, 8), np.inf, np.float32), np.eye(4)), scans / f"{MARK}_pair.hdr")
    write_dicom(scans / f"ct_{MARK}", 4)
    (scans / f"{MARK}.dcm").write_bytes(bytes(128) + b"DICM" + bytes(20))
    return scans


@pytest.mark.parametrize("debug", [False, True], ids=["", "with tracebacks"])
def test_pseudonyms_keep_names_of_files_and_folders_in_one_table(guarded, model, named, tmp_path, debug):
    output = tmp_path / "out"
    words = ["segment", named, "-m", model, "-o", output, "--pseudonymize", "--formats", "seg-nrrd,dicom-seg"]
    done = guarded([*(["--debug"] if debug else []), *words])
    assert done.code == 1, done.screen
    assert MARK not in done.screen
    assert told(output, (MARK,), but=("dicom/segmentation.dcm", "sources.csv")) == []
    rows = list(csv.DictReader((output / "cases.csv").read_text(encoding="utf-8").splitlines()))
    assert sum(row["status"] in DONE for row in rows) == 4
    assert len({row["case"] for row in rows}) == len(rows) == 15
    assert all(row["case"].startswith(("case-", "unreadable_")) for row in rows)
    sources = list(csv.DictReader((output / "sources.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["case"] for row in sources} == {row["case"] for row in rows}
    assert (output / "sources.csv").stat().st_mode & 0o777 == 0o600


def test_pseudonyms_are_the_same_again_and_do_not_mix_with_names(medseg, model, scans, tmp_path):
    command = ["segment", scans, "-m", model, "-o", tmp_path / "out", "--pseudonymize", "--no-pictures"]
    assert medseg(*command).exit_code == 0
    first = {path.name for path in (tmp_path / "out" / "cases").iterdir()}
    assert "3 of them by an earlier run" in medseg(*command).stdout
    assert {path.name for path in (tmp_path / "out" / "cases").iterdir()} == first
    other = medseg(*command[:5], tmp_path / "other", *command[6:], "--key", tmp_path / "other.key")
    assert other.exit_code == 0
    assert not first & {path.name for path in (tmp_path / "other" / "cases").iterdir()}
    assert medseg(*command[:5], tmp_path / "named", "--no-pictures").exit_code == 0
    mixed = medseg(*command[:5], tmp_path / "named", *command[6:])
    assert mixed.exit_code == 2
    assert "3 cases called by their files' names" in mixed.stderr


def test_channels_with_pseudonyms_are_still_one_case(tmp_path):
    for name in ("anna_0000", "anna_0001", "bert_0000", "bert_0001"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")
    catalog = without_names(index_scans(tmp_path / "scans"), tmp_path / "key")
    cases = list_cases(catalog, channels=2).cases
    assert [len(case.images) for case in cases] == [2, 2]
    assert all(PSEUDONYM.fullmatch(case.id) for case in cases)
    assert len({case.id for case in cases}) == 2
