"""An ellipsoid known in space is found where it is, in series with a tilt, a gap, uneven slices, and sheared NIfTI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medseg.config import InferenceConfig, IngestConfig
from medseg.geometry import Grid
from medseg.inference.predictor import Predictor
from medseg.io.dicom_write import write_series
from medseg.io.nifti import write_mask, write_volume
from medseg.io.scan import read_scan
from medseg.networks.model import Model
from medseg.plan import ChannelNormalisation
from medseg.preprocessing.prepare import prepare_image, prepare_mask
from medseg.volume import Mask, Source, Volume

CENTRE, RADII = np.array([3.0, -5.0, 12.0]), np.array([9.0, 8.0, 12.0])
SPACING, SHAPE = np.array([1.0, 1.5, 2.5]), (44, 34, 16)
BORDER_MM = 0.8
"""Voxels nearer to the ellipsoid's surface may fall on either side: about half a voxel of the network."""

REPAIR = IngestConfig(missing_slice="repair", variable_spacing="repair")
SCALE = ChannelNormalisation(kind="clip", low=-1000, high=1000, mean=0, std=1000)


def height(world: np.ndarray) -> np.ndarray:
    """Return about how many mm inside the ellipsoid's surface a place (RAS mm) lies."""
    return (1 - np.linalg.norm((world - CENTRE) / RADII, axis=-1)) * RADII.min()


def places(grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def hounsfield(world: np.ndarray) -> np.ndarray:
    return np.clip(height(world) * 150, -1000, 1000)


@pytest.fixture
def scan(tmp_path) -> Callable[..., Source]:
    """Write the ellipsoid as an axial CT whose slice n is moved by (y, z) in mm, without the slices that got lost."""

    def write(move: Callable[[int], tuple[float, float]], lost: set[int]) -> Source:
        affine = np.diag([-1.0, -1, 1, 1]) @ np.diag([*SPACING, 1.0])
        affine[:3, 3] = CENTRE + np.array([22, 25 + (move(7)[0] + move(8)[0]) / 2, -18.75])
        source = write_series(Volume(np.zeros((1, *SHAPE), np.float32), Grid(SHAPE, affine)), tmp_path / "ct")
        for number, path in enumerate(source.files):
            data = pydicom.dcmread(path)
            y, z = move(number)
            data.ImagePositionPatient = [
                float(a) + b for a, b in zip(data.ImagePositionPatient, (0, y, z), strict=True)
            ]
            slab = affine.copy()
            slab[:3, 3] = np.array(data.ImagePositionPatient, dtype=float) * [-1, -1, 1]
            values = hounsfield(places(Grid((*SHAPE[:2], 1), slab)))[:, :, 0].T
            data.PixelData = np.rint(values - float(data.RescaleIntercept)).astype(np.int16).tobytes()
            data.save_as(path)
            if number in lost:
                path.unlink()
        return Source("dicom", tuple(path for path in source.files if path.exists()), REPAIR)

    return write


SERIES = {
    "sound": (lambda n: (0, 0), set()),
    "tilt": (lambda n: (0.9 * n, 0), set()),
    "backward tilt": (lambda n: (-1.1 * n, 0), set()),
    "gap": (lambda n: (0, 0), {5, 9}),
    "uneven": (lambda n: (0, 0.4 * (n % 2) + 0.7 * (n > 6)), set()),
    "gap and tilt": (lambda n: (0.9 * n, 0), {7}),
}


def assert_found(mask: np.ndarray, world: np.ndarray, border: float = BORDER_MM) -> None:
    """Check every voxel that is not within `border` of the surface."""
    inside = height(world)
    assert (np.abs(inside) > border).mean() > 0.9
    np.testing.assert_array_equal(mask[inside > border], 5)
    np.testing.assert_array_equal(mask[inside < -border], 0)


@pytest.mark.parametrize(("move", "lost"), SERIES.values(), ids=SERIES)
def test_a_repaired_series_is_segmented_in_place(scan, tmp_path, make_plan, labels, threshold, move, lost):
    source = scan(move, lost)
    volume = read_scan(source)
    plan = make_plan(spacing=(1.2, 1.2, 2.0), patch=(16, 16, 8), normalisation=(SCALE,))
    mask = Predictor(Model((threshold,), plan, labels), InferenceConfig(precision="float32")).predict(volume).mask
    assert mask.grid is volume.grid
    border = BORDER_MM if not lost else 1.2  # between slices 5 mm apart the surface is a chord
    assert_found(mask.array, places(volume.grid), border)
    write_mask(tmp_path / "mask.nii.gz", mask, source, labels)
    image = nib.load(tmp_path / "mask.nii.gz")
    assert_found(
        np.asarray(image.dataobj),
        nib.affines.apply_affine(image.affine, np.indices(image.shape).T).T.transpose(1, 2, 3, 0),
        border,
    )


@pytest.mark.parametrize("shear", [(0, 0.4), (0.25, -0.3)])
def test_a_sheared_nifti_scan_is_segmented_in_place(tmp_path: Path, make_plan, labels, threshold, shear):
    affine = np.diag([*SPACING, 1.0])
    affine[:2, 2] = np.array(shear) * 2.5
    affine[:3, 3] = CENTRE - affine[:3, :3] @ (np.array(SHAPE) / 2)
    grid = Grid(SHAPE, affine)
    write_volume(tmp_path / "scan.nii.gz", Volume(hounsfield(places(grid))[None].astype(np.float32), grid))
    source = Source("nifti", (tmp_path / "scan.nii.gz",))
    volume, plan = read_scan(source), make_plan(spacing=(1.2, 1.2, 2.0), normalisation=(SCALE,))
    mask = Predictor(Model((threshold,), plan, labels), InferenceConfig(precision="float32")).predict(volume).mask
    assert_found(mask.array, places(volume.grid))
    write_mask(tmp_path / "mask.nii.gz", mask, source)
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(source.files[0]).affine)


def test_training_sees_a_tilted_scan_and_its_mask_upright(make_plan, labels):
    affine = np.diag([*SPACING, 1.0])
    affine[1, 2] = 1.0
    affine[:3, 3] = CENTRE - affine[:3, :3] @ (np.array(SHAPE) / 2)
    grid = Grid(SHAPE, affine)
    volume = Volume(hounsfield(places(grid))[None].astype(np.float32), grid)
    drawn = Mask(np.where(height(places(grid)) > 0, 5, 0).astype(np.uint8), grid)
    prepared = prepare_image(volume, make_plan(spacing=(1.2, 1.2, 2.5), normalisation=(SCALE,)))
    target = prepare_mask(drawn, labels, prepared.grid)
    assert prepared.grid.is_orthogonal
    inside = height(places(prepared.grid))
    np.testing.assert_array_equal(target[np.abs(inside) > 1] == 1, inside[np.abs(inside) > 1] > 0)
    np.testing.assert_array_equal(prepared.image[0][np.abs(inside) > 1] > 0, inside[np.abs(inside) > 1] > 0)
    corner = prepared.image[0, 0, 0, -1]  # the tilt leaves it empty: air
    assert corner == pytest.approx(-1, abs=1e-6)
