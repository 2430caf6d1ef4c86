"""Measures of structures and lesions: counts, places, intensities, what is cut and what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.errors import LabelError
from medseg.geometry import Grid
from medseg.io.tables import write_csv
from medseg.labels import LabelMap
from medseg.measures import measure
from medseg.measures.features import measure_structures
from medseg.measures.measure import Measures, likely_slice_axis, measure_mask, plane_name
from medseg.measures.table import COLUMNS, INTENSITIES, measure_rows
from medseg.volume import Mask, Volume

LABELS = LabelMap.parse({"organ": 1, "tumour": 2, "absent": 7}).with_lesions(["tumour"])
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", [5, -40, 30], degrees=True).as_matrix() @ np.diag([-0.8, 1.25, 2.0])
AFFINE[:3, 3] = 12, -30, 44


def case(array: np.ndarray, channels: int = 1, affine: np.ndarray = AFFINE) -> tuple[Volume, Mask]:
    grid = Grid(array.shape, affine)
    rng = np.random.default_rng(1)
    return Volume(rng.normal(40, 20, (channels, *array.shape)).astype(np.float32), grid), Mask(array, grid)


def measured(volume: Volume, mask: Mask, labels: LabelMap, slice_axis: int | None = None) -> tuple[Measures, ...]:
    return measure_mask(volume, mask, labels, slice_axis).measures


@pytest.fixture
def scene() -> np.ndarray:
    """An organ of 6 x 5 x 4 voxels, and tumours of 8, 3 and 1 voxels."""
    array = np.zeros((20, 18, 12), np.uint8)
    array[3:9, 4:9, 2:6] = 1
    array[12:14, 3:5, 7:9] = 2
    array[14:17, 14, 3] = 2
    array[4, 5, 3] = 2
    return array


def test_counts_volumes_places_and_intensities(scene):
    volume, mask = case(scene, channels=2)
    organ, *_ = measured(volume, mask, LABELS)
    inside = scene == 1
    voxels = np.argwhere(inside)
    assert (organ.structure, organ.value, organ.lesion) == ("organ", 1, None)
    assert (organ.voxels, organ.components, organ.incomplete) == (119, 1, False)
    assert organ.volume_ml == pytest.approx(119 * 0.8 * 1.25 * 2.0 / 1000)
    assert organ.centroid_voxel == pytest.approx(voxels.mean(axis=0), abs=1e-3)
    world = voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    assert organ.centroid_mm == pytest.approx(world.mean(axis=0), abs=1e-3)
    for channel, found in zip(volume.array, organ.intensity, strict=True):
        values = channel[inside]
        expected = [values.mean(), values.std(), *np.percentile(values, (5, 25, 50, 75, 95))]
        assert list(found.model_dump().values()) == pytest.approx(expected, rel=1e-5)


def test_volumes_agree_with_counting():
    rng = np.random.default_rng(0)
    labels = LabelMap.parse({"a": 1, "b": 200})
    mask = Mask(rng.choice([0, 1, 200], (6, 5, 4)).astype(np.uint8), Grid((6, 5, 4), np.diag([1, 2, 3, 1.0])))
    volume = Volume(np.zeros((1, 6, 5, 4), np.float32), mask.grid)
    expected = {"a": (mask.array == 1).sum() * 6e-3, "b": (mask.array == 200).sum() * 6e-3}
    assert measure_mask(volume, mask, labels).volumes_ml == pytest.approx(expected)


def test_what_is_judged_is_what_is_shown(scene):
    """One look gives both, whole structures without lesions, and the cheap look gives the same."""
    volume, mask = case(scene, channels=2)
    found = measure_mask(volume, mask, LABELS)
    assert found.structures == measure_structures(volume, mask, LABELS)
    assert list(found.structures) == ["organ", "tumour"]
    whole = {part.structure: part for part in found.measures if part.lesion is None}
    for name, features in found.structures.items():
        assert (features.volume_ml, features.centroid_mm) == (whole[name].volume_ml, whole[name].centroid_mm)
        assert [(i.mean, i.sd) for i in features.intensity] == [(i.mean, i.sd) for i in whole[name].intensity]


def test_a_scan_of_one_slice_cuts_everything():
    array = np.zeros((6, 6, 1), np.uint8)
    array[2:4, 2:4] = 1
    organ, *_ = measured(*case(array), LABELS)
    assert organ.incomplete


def test_a_single_lesion_is_its_structure():
    array = np.zeros((9, 8, 7), np.uint8)
    array[2:5, 3, 3:5] = 2
    whole, lesion = measured(*case(array), LABELS.model_copy(update={"labels": LABELS.labels[1:2]}))
    assert (whole.lesion, lesion.lesion) == (None, 1)
    assert lesion.model_copy(update={"lesion": None}) == whole


def test_lesions_follow_their_structure_the_largest_first(scene):
    found = measured(*case(scene), LABELS)
    assert [(part.structure, part.lesion, part.voxels) for part in found] == [
        ("organ", None, 119), ("tumour", None, 12), ("tumour", 1, 8), ("tumour", 2, 3), ("tumour", 3, 1),
        ("absent", None, 0),
    ]  # fmt: skip
    assert found[1].components == 3
    row = found[3]
    assert row.long_mm == pytest.approx(3 * 0.8)
    assert row.short_mm == pytest.approx(1.25)
    assert row.diameter_mm == pytest.approx(np.hypot(2 * 0.8, 2.0))
    assert row.slice == 3
    assert row.centroid_voxel == (15, 14, 3)
    assert found[2].slice in (7, 8)


def test_diagonal_neighbours_are_one_lesion():
    array = np.zeros((9, 9, 9), np.uint8)
    array[2, 2, 2] = array[3, 3, 3] = array[6, 6, 6] = 2
    whole, first, second = measured(*case(array), LABELS.model_copy(update={"labels": LABELS.labels[1:2]}))
    assert (whole.components, first.voxels, second.voxels) == (2, 2, 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_what_the_scan_cuts_is_incomplete_and_measured_all_the_same(scene, axis, end):
    whole = measured(*case(scene), LABELS)
    at = [10, 10, 10]
    at[axis] = end
    scene[tuple(at)] = 2
    found = measured(*case(scene), LABELS)
    cut = [part for part in found if part.incomplete]
    assert [(part.structure, part.lesion is None, part.voxels) for part in cut] == [
        ("tumour", True, 13), ("tumour", False, 1),
    ]  # fmt: skip
    assert cut[0].voxels == whole[1].voxels + 1
    assert all(part.volume_ml > 0 and part.long_mm > 0 for part in cut)


def test_what_is_not_there_has_no_size_but_no_zeros_either(scene):
    absent = measured(*case(scene), LABELS)[-1]
    assert (absent.voxels, absent.volume_ml, absent.components) == (0, 0, 0)
    assert (absent.long_mm, absent.short_mm, absent.diameter_mm, absent.centroid_mm, absent.slice) == (None,) * 5
    assert absent.intensity == ()


def test_an_empty_mask_is_measured_too():
    found = measured(*case(np.zeros((4, 5, 6), np.uint8)), LABELS)
    assert [part.voxels for part in found] == [0, 0, 0]


def test_noise_does_not_fill_the_table(monkeypatch):
    monkeypatch.setattr(measure, "MAX_LESIONS", 5)
    array = np.zeros((16, 16, 16), np.uint8)
    array[::2, ::2, ::2] = 2
    found = measured(*case(array), LABELS)
    assert [part.lesion for part in found if part.structure == "tumour"] == [None, 1, 2, 3, 4, 5]
    assert found[1].components == 512


def test_lesions_are_marked_by_name():
    assert [label.lesion for label in LABELS.labels] == [False, True, False]
    assert LABELS.with_lesions([]).labels[1].lesion is False
    with pytest.raises(LabelError, match="no label is called cyst; the labels are 1 organ"):
        LABELS.with_lesions(["cyst", "tumour"])


def test_slices_lie_along_the_coarse_axis_or_the_body():
    def grid(spacing, rotation=None):
        affine = np.diag([*spacing, 1.0])
        if rotation is not None:
            affine[:3, :3] = rotation @ affine[:3, :3]
        return Grid((10, 11, 12), affine)

    turned = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])  # first axis runs back, second up, third right
    assert likely_slice_axis(grid((1, 1, 5))) == 2
    assert likely_slice_axis(grid((5, 1, 1))) == 0
    assert likely_slice_axis(grid((1, 1, 1), turned)) == 1
    assert likely_slice_axis(grid((1, 1, 5), turned)) == 2
    assert [plane_name(grid((1, 1, 1), turned), axis) for axis in range(3)] == ["coronal", "axial", "sagittal"]
    tipped = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    assert plane_name(grid((1, 1, 5), tipped), 2) == "oblique axial"
    assert plane_name(grid((1, 1, 5), tipped), 0) == "sagittal"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scan_of_one_slice_is_measured_within_it(axis):
    array = np.zeros((30, 30), np.uint8)
    array[5:25, 10:20] = 1
    found = measured(*case(np.expand_dims(array, axis), affine=np.eye(4)), LABELS)[0]
    usual = measured(*case(array[..., None], affine=np.eye(4)), LABELS, slice_axis=2)[0]
    assert (found.long_mm, found.short_mm) == pytest.approx((usual.long_mm, usual.short_mm))
    assert (found.plane, found.slice) == (("sagittal", "coronal", "axial")[axis], 0)


def test_the_given_slice_axis_counts():
    array = np.zeros((12, 12, 12), np.uint8)
    array[2:4, 3:10, 5] = 1
    volume, mask = case(array, affine=np.diag([1.0, 1, 1, 1]))
    assert measured(volume, mask, LABELS)[0].long_mm == pytest.approx(7, abs=0.5)
    across = measured(volume, mask, LABELS, slice_axis=1)[0]
    assert (across.long_mm, across.plane) == (pytest.approx(2), "coronal")


def test_the_table_has_a_row_each_and_no_formulas(scene, tmp_path):
    labels = LabelMap.parse({"=organ": 1, "tumour": 2, "absent": 7}).with_lesions(["tumour"])
    found = measured(*case(scene, channels=2), labels)
    header, rows = measure_rows([("-case", found)], channels=2)
    assert header == [
        *COLUMNS, *(f"intensity_{name}" for name in INTENSITIES), *(f"intensity_2_{name}" for name in INTENSITIES)
    ]  # fmt: skip
    assert {len(row) for row in rows} == {len(header)}
    write_csv(tmp_path / "measures.csv", header, rows)
    lines = (tmp_path / "measures.csv").read_text().splitlines()
    assert lines[1].startswith("'-case,'=organ,1,,119,")
    absent = dict(zip(header, lines[-1].split(","), strict=True))
    assert (absent["voxels"], absent["volume_ml"], absent["long_mm"], absent["intensity_mean"]) == ("0", "0.0", "", "")
    assert absent["incomplete"] == "false"
    assert [line.split(",")[3] for line in lines[2:6]] == ["", "1", "2", "3"]


@pytest.mark.parametrize("spacing", [0.3, 0.0004])
def test_the_table_keeps_small_numbers(spacing):
    """One voxel of 0.3 mm is 0.000027 ml, one of micro-CT less than a micrometre; diffusion is below 0.003 mm²/s."""
    array = np.zeros((5, 5, 5), np.uint8)
    array[2, 2, 2] = 1
    grid = Grid(array.shape, np.diag([spacing, spacing, spacing, 1]))
    volume = Volume(np.full((1, *array.shape), 0.00081234, np.float32), grid)
    header, rows = measure_rows([("case", measured(volume, Mask(array, grid), LABELS))])
    row = dict(zip(header, rows[0], strict=True))
    assert row["volume_ml"] == pytest.approx(spacing**3 / 1000, rel=1e-5)
    assert row["intensity_mean"] == 0.00081234
    assert {row[name] for name in ("long_mm", "short_mm", "diameter_mm")} == {spacing}


def test_every_column_is_explained():
    page = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
    explained = [cell for line in page.splitlines() if line.startswith("| `") for cell in line.split("|")[1].split("`")]
    header, _ = measure_rows([])
    assert [name for name in header if name not in explained] == []
