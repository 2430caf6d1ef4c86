"""Cases are measured in canonical order, against numpy; unsound ones are all named at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import DatasetError
from medseg.labels import LabelMap
from medseg.planning import examine
from medseg.planning.examine import examine_case, fingerprint_cases
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint, load_fingerprint, save_fingerprint
from medseg.volume import Case, Source

LABELS = LabelMap.parse({"organ": 1, "tumour": 2, "ignore": 9})
CaseWriter = Callable[..., Case]


@pytest.fixture
def write_case(tmp_path: Path) -> CaseWriter:
    """Return a writer of a case from its arrays; axes are stored as (z, x, y), x flipped."""

    def write(id_: str, image: np.ndarray, mask: np.ndarray | None, spacing: tuple[float, ...] = (1, 1, 1)) -> Case:
        x, y, z = spacing
        affine = np.zeros((4, 4))
        affine[[2, 0, 1, 3], [0, 1, 2, 3]] = [z, -x, y, 1]

        def stored(array: np.ndarray) -> np.ndarray:
            return np.flip(np.moveaxis(array, 2, 0), 1)

        files = []
        for name, array in (("image", image), ("mask", mask)):
            path = tmp_path / f"{id_}_{name}.nii"
            files.append(path)
            if array is not None:
                nib.save(nib.Nifti1Image(stored(array), affine), path)
        return Case(id_, (Source("nifti", (files[0],)),), files[1] if mask is not None else None)

    return write


def noise(seed: int = 0, shape: tuple[int, ...] = (12, 10, 6)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def blob(value: int = 1, shape: tuple[int, ...] = (12, 10, 6)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[2:8, 3:7, 1:5] = value
    return mask


@pytest.mark.parametrize(
    ("headers", "kinds", "known"),
    [
        (("CT", "CT"), ["other"], ("CT",)),
        (("CT", "MR"), ["ct"], ("CT", "MR")),
        (("", ""), ["mr"], ("MR",)),
        (("", "CT"), ["other"], ()),  # nobody knows what the first one is
        (("", ""), ["other"], ()),
    ],
)
def test_modalities_are_known_if_the_dataset_or_every_header_states_them(
    headers: tuple[str, ...], kinds: list[str], known: tuple[str, ...]
) -> None:
    sizes: dict[str, Any] = {"shape": (9, 9, 9), "content_shape": (9, 9, 9), "spacing": (1, 1, 1), "channels": 1}
    cases = tuple(CaseFingerprint(id=f"{n}", modality=word, **sizes) for n, word in enumerate(headers))
    assert Fingerprint(cases=cases).modalities(kinds) == known


class TestOneCase:
    def test_shape_and_spacing_are_canonical(self, write_case: CaseWriter) -> None:
        found = examine_case(write_case("a", noise(), blob(), (0.5, 0.75, 3.0)), LABELS)
        assert found.shape == found.content_shape == (12, 10, 6)
        assert found.spacing == pytest.approx((0.5, 0.75, 3.0))

    def test_content_shape_leaves_out_the_zeros_around(self, write_case: CaseWriter) -> None:
        image = np.zeros((12, 10, 6), np.float32)
        image[3:8, 2:3, 4:] = 5
        image[5, 2, 4] = 0  # a hole within doesn't count
        assert examine_case(write_case("a", image, blob()), LABELS).content_shape == (5, 1, 2)

    def test_the_darkest_voxels_of_the_whole_scan_are_measured(self, write_case: CaseWriter) -> None:
        image = noise()
        image[:2] = -1000
        assert examine_case(write_case("a", image, blob()), LABELS).darkest == (-1000,)

    def test_foreground_statistics(self, write_case: CaseWriter) -> None:
        image, mask = noise(), blob()
        mask[0, 0, 0], mask[11, 9, 5] = 2, 9
        image[11, 9, 5] = 1e6  # ignored voxels are no foreground
        found = examine_case(write_case("a", image, mask, (1, 1, 2)), LABELS)
        inside = image[(mask == 1) | (mask == 2)].astype(float)
        intensities = found.foreground[0]
        assert (intensities.mean, intensities.std) == (pytest.approx(inside.mean()), pytest.approx(inside.std()))
        assert intensities.quantiles[3] == pytest.approx(np.quantile(inside, 0.005), rel=1e-5)
        assert found.volumes_ml == {"organ": pytest.approx(0.002 * 96), "tumour": pytest.approx(0.002)}

    def test_without_mask_or_foreground(self, write_case: CaseWriter) -> None:
        for mask in (None, blob(0)):
            found = examine_case(write_case("a", noise(), mask), LABELS)
            assert (found.foreground, found.volumes_ml) == ((), {})

    def test_constant_image(self, write_case: CaseWriter) -> None:
        assert examine_case(
            write_case("a", np.full((12, 10, 6), 7.0, np.float32), blob()), LABELS
        ).constant_channels == (0,)
        assert examine_case(write_case("b", noise(), blob()), LABELS).constant_channels == ()

    def test_many_voxels_are_sampled_evenly(self, write_case: CaseWriter, monkeypatch: pytest.MonkeyPatch) -> None:
        image = np.linspace(0, 1, 40**3, dtype=np.float32).reshape(40, 40, 40)
        case = write_case("a", image, np.ones((40, 40, 40), np.uint8))
        whole = examine_case(case, LABELS).foreground[0]
        monkeypatch.setattr(examine, "SAMPLE", 5000)
        part = examine_case(case, LABELS).foreground[0]
        assert part != whole
        assert part.quantiles == pytest.approx(whole.quantiles, abs=0.01)
        assert part == examine_case(case, LABELS).foreground[0]  # no chance in it


class TestAllCases:
    def test_pooled_statistics_equal_numpy_s(self, write_case: CaseWriter) -> None:
        images = [noise(seed) * (1 + seed) for seed in range(4)]
        cases = [write_case(f"c{seed}", image, blob()) for seed, image in enumerate(images)]
        found = fingerprint_cases(cases, LABELS).intensities(0)
        assert found is not None
        pooled = np.concatenate([image[blob() == 1] for image in images]).astype(float)
        assert (found.mean, found.std) == (pytest.approx(pooled.mean()), pytest.approx(pooled.std()))
        spread = pooled.max() - pooled.min()
        expected = np.quantile(pooled, [0.005, 0.5, 0.995])
        assert [found.low, found.median, found.high] == pytest.approx(expected, abs=0.02 * spread)

    def test_order_is_kept_and_cases_can_be_selected(self, write_case: CaseWriter, tmp_path: Path) -> None:
        cases = [write_case(name, noise(), blob()) for name in ("b", "a", "c")]
        fingerprint = fingerprint_cases(cases, LABELS)
        assert [case.id for case in fingerprint.cases] == ["b", "a", "c"]
        assert [case.id for case in fingerprint.select(["c", "b"]).cases] == ["c", "b"]
        with pytest.raises(DatasetError, match="no entry for z"):
            fingerprint.select(["a", "z"])
        with pytest.raises(DatasetError, match="no entry for an empty list"):
            fingerprint.select([])
        save_fingerprint(fingerprint, tmp_path / "fingerprint.json")
        assert load_fingerprint(tmp_path / "fingerprint.json") == fingerprint

    def test_no_foreground_anywhere(self, write_case: CaseWriter) -> None:
        assert fingerprint_cases([write_case("a", noise(), blob(0))], LABELS).intensities(0) is None

    def test_every_unsound_case_is_named_with_its_reason(self, write_case: CaseWriter) -> None:
        spoilt = noise()
        spoilt[3, 3, 3] = np.nan
        other_grid = write_case("grid", noise(), None)
        cases = [
            write_case("sound", noise(), blob()),
            write_case("nan", spoilt, blob()),
            write_case("values", noise(), blob(5)),
            Case("grid", other_grid.images, write_case("wide", noise(), blob(), (1, 1, 2)).mask),
            Case("gone", (Source("nifti", (Path("gone.nii"),)),)),
        ]
        with pytest.raises(DatasetError) as caught:
            fingerprint_cases(cases, LABELS)
        message = str(caught.value)
        assert message.startswith("4 of 5 cases can't be used: ")
        assert "case nan: nan_image.nii holds voxels that are NaN or infinite" in message
        unknown = "the mask holds values [5] that the label map doesn't know (1 organ, 2 tumour); name them, too"
        assert f"; case values: {unknown}, in dataset.labels; " in message
        assert "; case grid: the mask is on another grid" in message
        assert "; case gone: gone.nii " in message
        assert "sound" not in message

    def test_a_long_list_is_cut(self, write_case: CaseWriter) -> None:
        cases = [write_case(f"c{n:02d}", noise(), blob(5)) for n in range(13)]
        with pytest.raises(DatasetError, match=r"c09: .*; and 3 more$"):
            fingerprint_cases(cases, LABELS)

    def test_uneven_channels_are_refused(self, write_case: CaseWriter) -> None:
        one, other, third = (write_case(name, noise(), blob()) for name in "abc")
        double = Case("double", (*third.images, *third.images), third.mask)
        with pytest.raises(DatasetError, match=r"same channels: most have 1, but double has 2"):
            fingerprint_cases([one, other, double], LABELS)

    def test_no_case_is_refused(self) -> None:
        with pytest.raises(DatasetError, match="there is no case to look at"):
            fingerprint_cases([], LABELS)

    @pytest.mark.parametrize(
        ("text", "message"), [("{", "Invalid JSON"), ('{"cases": []}', "cases"), (None, "readable")]
    )
    def test_a_file_that_is_no_fingerprint(self, tmp_path: Path, text: str | None, message: str) -> None:
        if text is not None:
            (tmp_path / "f.json").write_text(text)
        with pytest.raises(DatasetError, match=message):
            load_fingerprint(tmp_path / "f.json")


@pytest.mark.skipif("MEDSEG_DATA" not in os.environ, reason="MEDSEG_DATA does not name the folder of real scans")
class TestRealScans:
    def fingerprint(self, name: str, count: int, labels: LabelMap) -> Fingerprint:
        folder = Path(os.environ["MEDSEG_DATA"]) / name
        paths = sorted((folder / "images").iterdir())[:count]
        cases = [Case(path.name[:-7], (Source("nifti", (path,)),), folder / "labels" / path.name) for path in paths]
        return fingerprint_cases(cases, labels)

    def test_hippocampus_and_left_atrium(self) -> None:
        hippocampus = self.fingerprint("hippocampus", 40, LabelMap.parse({"anterior": 1, "posterior": 2}))
        x, y, z = np.median([case.shape for case in hippocampus.cases], axis=0)
        assert (x, y, z) == (pytest.approx(36, abs=2), pytest.approx(51, abs=2), pytest.approx(36, abs=2))
        assert all(set(case.volumes_ml) == {"anterior", "posterior"} for case in hippocampus.cases)
        atrium = self.fingerprint("left_atrium", 2, LabelMap.parse({"atrium": 1}))
        assert all(30 < case.volumes_ml["atrium"] < 300 for case in atrium.cases)
