"""Scans and mask of a case come on one grid, however each is stored."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff

from medseg.errors import GeometryError, ReasonCode
from medseg.io.scan import read_case
from medseg.volume import Case, Source

SHAPE = (5, 4, 3)
AFFINE = np.array([[1.0, 0.1, 0, 10], [-0.1, 1.5, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
def test_parts_stored_in_another_order_come_in_the_first_scan_s(
    tmp_path: Path, axes: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    """nibabel reorders the files; read together they must be what they were."""
    order = np.stack([axes, flips], axis=1)
    turned = AFFINE @ inv_ornt_aff(order, SHAPE)
    mask = np.arange(60, dtype=np.uint8).reshape(SHAPE)
    first = write(tmp_path / "first.nii", image())
    second = write(tmp_path / "second.nii", apply_orientation(2 * image(), order), turned)
    drawn = write(tmp_path / "mask.nii", apply_orientation(mask, order), turned)
    volume, read = read_case(Case("a", (Source("nifti", (first,)), Source("nifti", (second,))), drawn))
    assert read is not None
    np.testing.assert_array_equal(read.array, mask)
    np.testing.assert_array_equal(volume.array, [image(), 2 * image()])
    assert read.grid is volume.grid
    np.testing.assert_allclose(volume.grid.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "distance"),
    [((0, 3, 10.5), "up to 0.5 mm apart"), ((2, 2, 2.5), "up to 1 mm apart"), ((1, 0, 0.0), "mm apart")],
)
def test_a_mask_elsewhere_is_refused(tmp_path: Path, change: tuple[int, int, float], distance: str) -> None:
    moved = AFFINE.copy()
    moved[change[:2]] = change[2]
    first = write(tmp_path / "first.nii", image())
    drawn = write(tmp_path / "mask.nii", np.ones(SHAPE, np.uint8), moved)
    with pytest.raises(
        GeometryError, match=f"case a: the mask is on another grid than the scan .*{distance}"
    ) as caught:
        read_case(Case("a", (Source("nifti", (first,)),), drawn))
    assert caught.value.code is ReasonCode.GRID_MISMATCH


def test_a_channel_of_another_shape_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "first.nii", image())
    other = write(tmp_path / "other.nii", image()[:, :, :2])
    with pytest.raises(GeometryError, match=r"case a: channel 2 is on another grid .*5x4x2 voxels"):
        read_case(Case("a", (Source("nifti", (first,)), Source("nifti", (other,)))))
