"""``medseg convert``: the volumes lie where other libraries see the scans, the broken are named, a rerun skips."""

from __future__ import annotations

import csv
import json
import os
import stat
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.batch import convert_folder
from medseg.errors import OutputError
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.provenance import digest_files
from medseg.volume import Volume

from ..catalog.studies import write_study
from .conftest import write_scan

DATA = os.environ.get("MEDSEG_DATA")

OBLIQUE = sitk.VersorTransform((0.3, -0.5, 0.8), 0.4)
"""A turn about an axis that is none of the patient's."""


def table(path):
    return {row["case"]: row for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())}


def turn():
    return np.array(OBLIQUE.GetMatrix()).reshape(3, 3)


def make_series(folder, directions, *, seed=0, patient="CANARY^Name"):
    """Write a CT series whose voxels all differ; `directions`: (3, 3), columns are the axes' directions, RAS."""
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([0.9, 1.1, 2.5])
    affine[:3, 3] = 12.5, -30, 41
    array = np.random.default_rng(seed).permutation(11 * 9 * 7).reshape(1, 11, 9, 7).astype(np.float32)
    volume = Volume(array, Grid((11, 9, 7), affine))
    return write_series(volume, folder, seed=seed, patient=patient, description="CANARY head")


def read_series(folder):
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    return reader.Execute()


def assert_same_in_space(converted: sitk.Image, original: sitk.Image):
    """Every voxel of `converted` (of a large one, many) lies on one of `original` and holds its value."""
    assert sorted(converted.GetSize()) == sorted(original.GetSize())
    values, expected = sitk.GetArrayFromImage(converted), sitk.GetArrayFromImage(original)
    to_world = [sitk_affine(image) for image in (converted, original)]
    size = converted.GetSize()
    count = int(np.prod(size))
    indices = np.stack(np.unravel_index(np.arange(0, count, 1 + count // 100_000), size), -1)
    there = np.linalg.inv(to_world[1]) @ to_world[0] @ np.c_[indices, np.ones(len(indices))].T
    i, j, k = np.rint(there[:3]).astype(int)
    assert np.abs(there[:3] - np.rint(there[:3])).max() < 1e-3
    np.testing.assert_array_equal(values[indices[:, 2], indices[:, 1], indices[:, 0]], expected[k, j, i])


def sitk_affine(image):
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


@pytest.mark.parametrize(
    "directions",
    [
        np.diag([-1.0, -1, 1]),
        np.diag([1.0, -1, -1]),
        np.eye(3),
        np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
        turn() @ np.diag([-1.0, -1, 1]),
        turn() @ np.diag([1.0, -1, 1]),
    ],
    ids=["axial", "flipped", "ras", "sagittal", "oblique", "oblique-flipped"],
)
def test_the_volume_lies_where_simpleitk_sees_the_series(medseg, tmp_path, directions):
    make_series(tmp_path / "scans", directions)
    assert medseg("convert", tmp_path / "scans", "-o", tmp_path / "out").exit_code == 0
    (volume,) = (tmp_path / "out").glob("*.nii.gz")
    assert_same_in_space(sitk.ReadImage(str(volume)), read_series(tmp_path / "scans"))
    header = nib.load(volume).header
    assert (header["qform_code"], header["sform_code"], header.get_data_dtype()) == (1, 1, np.int16)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)


def test_a_mixed_folder_with_broken_scans(medseg, scans, tmp_path):
    series = make_series(scans / "CANARY_folder" / "series", np.diag([-1.0, -1, 1]))
    make_series(scans / "gap", np.diag([-1.0, -1, 1]), seed=1).files[3].unlink()
    cut = write_scan(scans / "cut.nii.gz", 5)  # only reading its pixels shows it
    cut.write_bytes(cut.read_bytes()[:-2000])
    (scans / "junk.nii").write_bytes(b"junk" * 300)
    (scans / "notes.txt").write_text("no scan")
    output = tmp_path / "out"
    result = medseg("convert", scans, "--output", output)
    assert result.exit_code == 1

    rows = table(output / "conversion.csv")
    dicom, gap = sorted((case for case in rows if case.startswith("case-")), key=lambda case: rows[case]["status"])
    assert {case: (row["status"], row["reason"]) for case, row in rows.items()} == {
        "a_scan": ("done", ""),
        "b_scan": ("done", ""),
        "other": ("done", ""),
        dicom: ("done", ""),
        gap: ("rejected", "MISSING_SLICE"),
        "cut": ("rejected", "TRUNCATED"),
        "junk": ("rejected", "NOT_A_SCAN"),
    }
    assert all(bool(row["message"]) == (row["status"] == "rejected") for row in rows.values())
    for case, row in rows.items():
        (line,) = [line for line in result.stdout.splitlines() if line.split()[1:2] and case in line.split()[1]]
        assert line.startswith(row["status"])
        assert row["message"] in line
    assert "left out: 1 files, NOT_A_SCAN" in result.stdout
    assert "4 of 7 scans converted" in result.stdout

    done = ["a_scan", "b_scan", "other", dicom]
    tables = ["conversion.csv", "sources.csv"]
    assert sorted(os.listdir(output)) == sorted([*tables, *(c + e for c in done for e in (".nii.gz", ".json"))])
    for case, path in {"a_scan": "a/scan.nii.gz", "b_scan": "b/scan.nii.gz", "other": "other.nii"}.items():
        ours, scan = nib.load(output / f"{case}.nii.gz"), nib.load(scans / path)
        assert ours.get_data_dtype() == np.float32
        np.testing.assert_array_equal(ours.get_fdata(), scan.get_fdata())
        np.testing.assert_allclose(ours.affine, scan.affine, atol=1e-4)
    record = json.loads((output / f"{dicom}.json").read_text())
    assert (record["kind"], record["modality"], record["files"], record["flags"]) == ("dicom", "CT", 7, ["HU_SUSPECT"])
    assert record["source_digest"] == digest_files(series.files)
    np.testing.assert_allclose(record["geometry"]["affine"], nib.load(output / f"{dicom}.nii.gz").affine, atol=1e-4)
    assert rows[dicom]["shape"] == "x".join(map(str, record["geometry"]["shape"])) == "11x9x7"


def test_nothing_but_the_private_table_names_patients_or_paths(medseg, scans, tmp_path):
    make_series(scans / "CANARY_folder", np.diag([-1.0, -1, 1]))
    make_series(scans / "CANARY_gap", np.eye(3), seed=1).files[3].unlink()
    image = nib.load(scans / "other.nii")
    image.header["descrip"] = b"CANARY"
    nib.save(image, scans / "a" / "descrip.nii")
    output = tmp_path / "out"
    result = medseg("convert", scans, "-o", output)
    sources = output / "sources.csv"
    assert "CANARY_folder" in sources.read_text()
    assert stat.S_IMODE(sources.stat().st_mode) == 0o600
    written = {path.name: path.read_bytes() for path in output.glob("*.[jc]s*") if path != sources}
    written |= {path.name: nib.load(path).header.binaryblock for path in output.glob("*.nii.gz")}
    written["screen"] = result.output.encode()
    assert len(written) == 12
    assert [name for name, content in written.items() if b"CANARY" in content or bytes(scans) in content] == []


def test_a_rerun_does_only_what_is_new_changed_or_damaged(medseg, scans, tmp_path):
    series = make_series(scans / "series", np.eye(3))
    output = tmp_path / "out"
    assert medseg("convert", scans, "-o", output).exit_code == 0
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")}
    again = medseg("convert", scans, "-o", output)
    assert (again.exit_code, again.stdout.count("by an earlier run")) == (0, 4)
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")} == times
    assert {row["status"] for row in table(output / "conversion.csv").values()} == {"done"}

    write_scan(scans / "other.nii", seed=9)
    (output / "a_scan.nii.gz").write_bytes(b"damaged")
    (output / "b_scan.json").write_text("{}")
    make_series(scans / "series", np.eye(3), seed=0).files[2].touch()  # the same bytes at another time
    third = medseg("convert", scans, "-o", output)
    assert (third.exit_code, third.stdout.count("by an earlier run")) == (0, 1)
    changed = nib.load(output / "other.nii.gz").get_fdata()
    np.testing.assert_array_equal(changed, nib.load(scans / "other.nii").get_fdata())
    assert nib.load(output / "a_scan.nii.gz").shape == (20, 18, 12)
    assert medseg("convert", scans, "-o", output, "--redo").stdout.count("by an earlier run") == 0
    assert len(series.files) == 7


def test_flags_of_the_index_and_of_the_pixels_are_kept(medseg, tmp_path):
    scans = tmp_path / "scans"
    source = make_series(scans, np.eye(3))  # no value is below 0: not what a CT's HU look like
    (scans / "copy.dcm").write_bytes(Path(source.files[0]).read_bytes())
    medseg("convert", scans, "-o", tmp_path / "out")
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json"))
    assert (record["files"], record["flags"]) == (7, ["DUPLICATE", "HU_SUSPECT"])


def test_a_failure_costs_its_scan_only(medseg, scans, tmp_path, monkeypatch):
    write = convert_folder.write_volume

    def fail(path, volume):
        if path.name == "a_scan.nii.gz":
            raise OutputError("can't write a_scan.nii.gz: the weather")
        if path.name == "b_scan.nii.gz":
            raise ValueError("CANARY")
        write(path, volume)

    monkeypatch.setattr(convert_folder, "write_volume", fail)
    result = medseg("convert", scans, "-o", tmp_path / "out")
    rows = table(tmp_path / "out" / "conversion.csv")
    assert {case: (row["status"], row["reason"]) for case, row in rows.items()} == {
        "a_scan": ("failed", "OUTPUT"), "b_scan": ("failed", "UNEXPECTED"), "other": ("done", ""),
    }  # fmt: skip
    assert result.exit_code == 1
    assert "CANARY" not in result.output
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["other.nii.gz"]


def test_exit_codes_of_wrong_places_and_of_nothing(medseg, scans, tmp_path):
    inside = medseg("convert", scans, "-o", scans / "out")
    assert (inside.exit_code, "inside the scan folder" in inside.stderr) == (2, True)
    assert not (scans / "out").exists()
    missing = medseg("convert", tmp_path / "nowhere", "-o", tmp_path / "out")
    assert (missing.exit_code, "no such file or folder" in missing.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    nothing = medseg("convert", tmp_path / "empty", "-o", tmp_path / "out")
    assert (nothing.exit_code, "no scan was found" in nothing.stderr) == (3, True)
    (tmp_path / "file").write_text("")
    assert medseg("convert", scans, "-o", tmp_path / "file").exit_code == 2


def test_what_convert_did_not_write_is_not_replaced(medseg, tmp_path):
    output, name = tmp_path / "out", "scan.nii.gz"
    scans = write_scan(tmp_path / "scans" / name).parent
    assert medseg("convert", scans, "--output", output).exit_code == 0
    made = (output / name).read_bytes()
    (output / name.replace(".nii.gz", ".json")).unlink()  # as where a run was killed behind the volume
    assert medseg("convert", scans, "--output", output).exit_code == 0
    assert (output / name).read_bytes() == made
    other = write_scan(tmp_path / "masks" / name, seed=99).parent
    drawn = (other / name).read_bytes()
    result = medseg("convert", scans, "--output", other)
    assert result.exit_code == 3
    assert "is there already and is another volume" in result.stdout
    assert (other / name).read_bytes() == drawn


def test_a_scan_is_never_replaced_by_its_own_volume(medseg, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    before = scan.read_bytes()
    result = medseg("convert", scan, "-o", tmp_path)
    assert (result.exit_code, "replace the scan itself" in result.stdout) == (3, True)
    assert scan.read_bytes() == before


@pytest.mark.skipif(not DATA, reason="MEDSEG_DATA does not name the folder of real scans")
@pytest.mark.parametrize("folder", ["ct/dicom_series", "mr/dicom_study/11-T1post-18670"])
def test_real_series_lie_where_simpleitk_sees_them(medseg, tmp_path, folder):
    assert medseg("convert", Path(DATA) / folder, "-o", tmp_path / "out").exit_code == 0
    (volume,) = (tmp_path / "out").glob("*.nii.gz")
    assert_same_in_space(sitk.ReadImage(str(volume)), read_series(Path(DATA) / folder))


def pack(archive, folder):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            target.write(path, f"CANARY/{path.relative_to(folder)}")


def test_scans_in_an_archive_are_converted_once_wherever_it_is_unpacked(medseg, scans, tmp_path):
    source = make_series(tmp_path / "series", np.eye(3))
    pack(scans / "export.zip", tmp_path / "series")
    pack(scans / "brains.zip", scans / "a")
    output = tmp_path / "out"
    assert medseg("convert", scans, "-o", output, "--workdir", tmp_path / "one").exit_code == 0
    assert list((tmp_path / "one").iterdir()) == []
    (case,) = (path.name[: -len(".nii.gz")] for path in output.glob("case-*.nii.gz"))
    assert json.loads((output / f"{case}.json").read_text())["source_digest"] == digest_files(source.files)
    np.testing.assert_array_equal(
        nib.load(output / "brains_000001.nii.gz").get_fdata(), nib.load(scans / "a" / "scan.nii.gz").get_fdata()
    )
    rows = {row["case"]: row["source"] for row in csv.DictReader((output / "sources.csv").read_text().splitlines())}
    assert (rows[case], rows["brains_000001"]) == ("export.zip", "brains.zip/000001.nii.gz")

    again = medseg("convert", scans, "-o", output, "--workdir", tmp_path / "two")
    assert (again.exit_code, again.stdout.count("by an earlier run")) == (0, 5)
    unpacked = medseg("convert", tmp_path / "series", "-o", output)
    assert unpacked.stdout.count("by an earlier run") == 1
    whole = medseg("convert", scans / "export.zip", "-o", output)
    assert whole.stdout.count("by an earlier run") == 1


def test_pseudonyms_hide_the_names_of_files(medseg, scans, tmp_path):
    write_scan(scans / "CANARY" / "CANARY.nii", 7)
    cut = write_scan(scans / "CANARY_cut.nii.gz", 5)
    cut.write_bytes(cut.read_bytes()[:-2000])
    (scans / "CANARY_junk.nii").write_bytes(b"junk" * 300)
    pack(scans / "CANARY.zip", scans / "a")
    output = tmp_path / "out"
    words = ["convert", scans, "-o", output, "--pseudonymize"]
    result = medseg(*words)
    assert result.exit_code == 1
    rows = table(output / "conversion.csv")
    assert sorted(row["status"] for row in rows.values()) == ["done"] * 5 + ["rejected"] * 2
    assert all(case.startswith("case-") for case in rows)
    written = {path.name: path.read_bytes() for path in output.iterdir() if path.name != "sources.csv"}
    written["screen"] = result.output.encode()
    assert [name for name, content in written.items() if b"CANARY" in content or "CANARY" in name] == []
    assert medseg(*words).stdout.count("by an earlier run") == 5
    named = medseg("convert", scans, "-o", tmp_path / "named")
    assert named.exit_code == 1
    mixed = medseg("convert", scans, "-o", tmp_path / "named", "--pseudonymize")
    assert (mixed.exit_code, "cases called by their files' names" in mixed.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["convert", "segment"])
def test_rules_that_no_series_meets_are_named_and_not_the_folder(medseg, model, tmp_path, verb):
    write_study(tmp_path / "scans", "CANARY", study="1.2.1")
    (tmp_path / "rules.yaml").write_text("rules: [{min_slices: 1000}]")
    words = ["--series-rule", tmp_path / "rules.yaml", *(["-m", model] if verb == "segment" else [])]
    result = medseg(verb, tmp_path / "scans", "-o", tmp_path / "out", *words)
    assert result.exit_code == 3
    assert f"no series meets the rules of --series-rule; {tmp_path / 'out' / 'selection.csv'} says" in result.stderr
    assert "no scan was found" not in result.stderr
    assert "fewer than 1000" in (tmp_path / "out" / "selection.csv").read_text(encoding="utf-8")


def test_rules_convert_one_series_of_each_study_and_refuse_to_guess(medseg, tmp_path):
    scans, output = tmp_path / "scans", tmp_path / "out"
    write_study(scans, "CANARY thin", study="1.2.1", spacing=1.0)
    write_study(scans, "CANARY thick", study="1.2.1", spacing=4.0)
    write_study(scans, "CANARY one", study="1.2.2")
    write_study(scans, "CANARY two", study="1.2.2")
    (tmp_path / "rules.yaml").write_text("rules: [{description: canary}]")
    result = medseg("convert", scans, "-o", output, "--series-rule", tmp_path / "rules.yaml")
    assert result.exit_code == 1
    assert "left out: 12 files, NOT_SELECTED" in result.stdout
    assert len(list(output.glob("*.nii.gz"))) == 1
    rows = table(output / "conversion.csv")
    assert sorted((row["status"], row["reason"]) for row in rows.values()) == [
        ("done", ""), ("rejected", "AMBIGUOUS_SERIES"), ("rejected", "AMBIGUOUS_SERIES"),
    ]  # fmt: skip
    chosen = list(csv.DictReader((output / "selection.csv").read_text(encoding="utf-8").splitlines()))
    assert sorted((row["choice"], row["rank"]) for row in chosen) == [
        ("ambiguous", "1"), ("ambiguous", "1"), ("chosen", "1"), ("not chosen", "2"),
    ]  # fmt: skip
    assert [row["why"] for row in chosen if row["choice"] == "not chosen"] == ["its slices are 4 mm apart, another's 1"]
    assert len({row["study"] for row in chosen}) == 2
    assert all(row["spacing_mm"] and row["shape"] and row["axcodes"] for row in chosen)
    written = {path.name: path.read_bytes() for path in output.glob("*.[jc]s*") if path.name != "sources.csv"}
    assert [name for name, content in written.items() if b"CANARY" in content] == []


def test_a_workdir_among_the_scans_is_refused(medseg, scans, tmp_path):
    result = medseg("convert", scans, "-o", tmp_path / "out", "--workdir", scans / "work")
    assert (result.exit_code, "folder for unpacked archives" in result.stderr) == (2, True)
    assert not (scans / "work").exists()
