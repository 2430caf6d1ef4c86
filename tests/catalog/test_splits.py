"""Folds keep patients whole; leakage by patient or by content is found, and nothing else is."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.catalog.splits import check_leakage, k_folds, known_of
from medseg.errors import DatasetError
from medseg.volume import Case, Source

ScanWriter = Callable[..., Path]


def case(id_: str, *files: Path, patient: str = "", kind: str = "nifti") -> Case:
    return Case(id_, (Source("dicom" if kind == "dicom" else "nifti", files),), None, patient)


def cohort(scans_of_each: list[int]) -> list[Case]:
    return [case(f"p{p:02d}_{n}", patient=f"p{p:02d}") for p, scans in enumerate(scans_of_each) for n in range(scans)]


class TestFolds:
    @given(
        scans=st.lists(st.integers(1, 4), min_size=2, max_size=20), folds=st.integers(2, 5), seed=st.integers(0, 1000)
    )
    def test_every_case_is_held_out_once_and_no_patient_is_split(self, scans: list[int], folds: int, seed: int) -> None:
        cases = cohort(scans)
        folds = min(folds, len(scans))
        result = k_folds(cases, folds, seed)
        held = [case.id for fold in result for case in fold.validation]
        assert sorted(held) == sorted(case.id for case in cases)
        for fold in result:
            assert {case.patient for case in fold.train}.isdisjoint(case.patient for case in fold.validation)
            assert {case.id for case in (*fold.train, *fold.validation)} == {case.id for case in cases}
            assert fold.validation
        sizes = [len(fold.validation) for fold in result]
        assert max(sizes) - min(sizes) <= max(scans)

    def test_the_order_of_cases_makes_no_difference(self) -> None:
        cases = cohort([1] * 12)
        shuffled = random.Random(0).sample(cases, len(cases))
        one, other = k_folds(cases, 4, seed=3), k_folds(shuffled, 4, seed=3)
        assert [{c.id for c in fold.validation} for fold in one] == [{c.id for c in fold.validation} for fold in other]

    def test_the_seed_makes_one(self) -> None:
        cases = cohort([1] * 12)
        divisions = {frozenset(c.id for c in k_folds(cases, 4, seed)[0].validation) for seed in range(5)}
        assert len(divisions) > 1

    @pytest.mark.parametrize(
        ("patients", "folds", "message"),
        [(4, 5, r"4 patients can't be divided into 5 folds; ask for at most 4"), (4, 1, r"at least 2 folds, not 1")],
    )
    def test_refused(self, patients: int, folds: int, message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            k_folds(cohort([2] * patients), folds, seed=0)


class TestLeakage:
    def test_same_patient(self) -> None:
        with pytest.raises(DatasetError, match=r"1 held-out cases are of patients who are also trained on: b and a"):
            check_leakage([case("a", patient="p")], [case("b", patient="p"), case("c", patient="q")])

    def test_same_content_under_another_name(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        one, other = write_scan(tmp_path / "one.nii", seed=1), write_scan(tmp_path / "other.nii", seed=2)
        copy = tmp_path / "copy.nii"
        copy.write_bytes(one.read_bytes())
        check_leakage([case("a", one)], [case("b", other)])  # equal size, other content
        with pytest.raises(DatasetError, match=r"1 held-out cases hold the same image as a training case: c and a"):
            check_leakage([case("a", one)], [case("b", other), case("c", copy)])

    def test_the_same_scan_compressed_otherwise(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        plain, other = write_scan(tmp_path / "one.nii", seed=1), write_scan(tmp_path / "other.nii", seed=2)
        copies = [tmp_path / f"{level}.nii.gz" for level in (1, 9)]
        for level, path in zip((1, 9), copies, strict=True):
            path.write_bytes(gzip.compress(plain.read_bytes(), level))
        (tmp_path / "other.nii.gz").write_bytes(gzip.compress(other.read_bytes()))
        assert copies[0].read_bytes() != copies[1].read_bytes()
        check_leakage([case("a", copies[0])], [case("b", tmp_path / "other.nii.gz"), case("c", other)])
        for copy in (copies[1], plain):
            with pytest.raises(DatasetError, match=r"1 held-out cases hold the same image as a training case: c and a"):
                check_leakage([case("a", copies[0])], [case("c", copy)])

    def test_the_same_scan_in_several_gzip_members(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        content = write_scan(tmp_path / "one.nii", seed=1).read_bytes()
        whole, parts, padded = (tmp_path / f"{name}.nii.gz" for name in ("whole", "parts", "padded"))
        whole.write_bytes(gzip.compress(content))
        parts.write_bytes(gzip.compress(content[:999]) + gzip.compress(content[999:]) + gzip.compress(b""))
        padded.write_bytes(gzip.compress(content) + bytes(512))
        for copy in (parts, padded):
            with pytest.raises(DatasetError, match=r"1 held-out cases hold the same image as a training case: c and a"):
                check_leakage([case("a", whole)], [case("c", copy)])

    def test_the_same_voxels_saved_by_another_program(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        one = write_scan(tmp_path / "one.nii", seed=1)
        image = nibabel.load(one)
        image.header["descrip"], image.header["qform_code"] = b"another program", 0
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"where it was " * 20))
        nibabel.save(image, tmp_path / "again.nii.gz")
        with pytest.raises(DatasetError, match=r"1 held-out cases hold the same image as a training case: c and a"):
            check_leakage([case("a", one)], [case("c", tmp_path / "again.nii.gz")])

    def test_empty_channels_are_no_copies(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        for name in ("a", "b"):
            nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / f"{name}_1.nii.gz")
        one, other = write_scan(tmp_path / "a_0.nii", seed=1), write_scan(tmp_path / "b_0.nii", seed=2)
        check_leakage([case("a", one, tmp_path / "a_1.nii.gz")], [case("b", other, tmp_path / "b_1.nii.gz")])

    def test_equal_checksums_alone_are_no_copies(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        one = gzip.compress(write_scan(tmp_path / "one.nii", seed=1).read_bytes())
        (tmp_path / "one.nii.gz").write_bytes(one)
        other = bytearray(gzip.compress((write_scan(tmp_path / "other.nii", seed=2)).read_bytes()))
        other[-8:] = one[-8:]
        (tmp_path / "other.nii.gz").write_bytes(other)
        check_leakage([case("a", tmp_path / "one.nii.gz")], [case("b", tmp_path / "other.nii.gz")])

    def test_one_shared_slice_of_a_series_is_enough(self, tmp_path: Path, write_series: ScanWriter) -> None:
        one = sorted(write_series(tmp_path / "one", seed=1).iterdir())
        other = sorted(write_series(tmp_path / "other", seed=2).iterdir())
        check_leakage([case("a", *one, kind="dicom")], [case("b", *other, kind="dicom")])
        other[2].write_bytes(one[0].read_bytes())
        with pytest.raises(DatasetError, match="b and a"):
            check_leakage([case("a", *one, kind="dicom")], [case("b", *other, kind="dicom")])

    def test_equal_headers_of_pairs_are_no_leak(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        one, other = write_scan(tmp_path / "one.hdr", seed=1), write_scan(tmp_path / "other.hdr", seed=2)
        assert one.read_bytes() == other.read_bytes()
        check_leakage([case("a", one)], [case("b", other)])
        (tmp_path / "other.img").write_bytes((tmp_path / "one.img").read_bytes())
        with pytest.raises(DatasetError, match="b and a"):
            check_leakage([case("a", one)], [case("b", other)])

    def test_a_broken_link_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "gone.nii").symlink_to(tmp_path / "annex")
        with pytest.raises(DatasetError, match=r"gone.nii can't be read \(No such file"):
            check_leakage([case("a", tmp_path / "gone.nii")], [case("b", tmp_path / "gone.nii")])


def test_a_patient_is_known_by_any_scan_that_was_learnt_from() -> None:
    first, second, other = case("a", patient="p"), case("b", patient="p"), case("c", patient="q")
    assert known_of([second, other], {"a"}, [first, second, other]) == ["b"]
    assert known_of([second, other], {"a", "c"}, [second, other]) == ["c"], "a is not there to say whose it is"
    assert known_of([second, other], set(), [first, second, other]) == []
