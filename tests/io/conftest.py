"""DICOM series whose every voxel says where it is: HU = 200 + 2x + 3y + 5z of its RAS position in mm."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.volume import Source, Volume

from .dicom_results import GEOMETRIES, SHAPE, grid_of

AXIAL = np.array([[-1.0, 0, 0, 9.0], [0, -1.5, 0, 12.0], [0, 0, 2.5, -20.0], [0, 0, 0, 1]])


def hu_of(grid: Grid) -> np.ndarray:
    """Return what each voxel of `grid` must hold, before rounding to whole HU."""
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    world = indices @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return 200 + world @ [2.0, 3.0, 5.0]


class Phantom:
    """A series on disk that a test may damage."""

    def __init__(self, folder: Path, affine: np.ndarray = AXIAL, shape: tuple[int, int, int] = (12, 10, 8), **options):
        self.folder = folder
        self.grid = Grid(shape, affine)
        source = write_series(Volume(hu_of(self.grid)[None].astype(np.float32), self.grid), folder, **options)
        self.files = sorted(source.files)

    @property
    def source(self) -> Source:
        """All files of the folder, in no useful order."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return Source("dicom", tuple(files[1::2] + files[::2]))

    def edit(self, change: Callable[[pydicom.Dataset, int], None], only: slice = slice(None)) -> "Phantom":
        """Rewrite the headers of some files; `change` gets the dataset and the slice number from 0."""
        for number, path in list(enumerate(self.files))[only]:
            dataset = pydicom.dcmread(path)
            change(dataset, number)
            dataset.save_as(path)
        return self

    def move(self, offset: Callable[[int], list[float]]) -> "Phantom":
        """Shift each slice in space (LPS mm) and let its values say so."""

        def change(dataset: pydicom.Dataset, number: int) -> None:
            shift = np.array(offset(number))
            dataset.ImagePositionPatient = [
                float(a) + b for a, b in zip(dataset.ImagePositionPatient, shift, strict=True)
            ]
            values = dataset.pixel_array + np.int16(round(float(shift @ [-2.0, -3.0, 5.0])))
            dataset.PixelData = values.astype(np.int16).tobytes()

        return self.edit(change)


@pytest.fixture
def phantom(tmp_path):
    """Make a phantom series: ``phantom(name="ct", affine=..., shape=..., **write_series options)``."""
    return lambda name="ct", *args, **options: Phantom(tmp_path / name, *args, **options)


@pytest.fixture
def assert_in_place():
    """Check that a volume covers a grid and that every voxel holds what its position says."""

    def check(volume: Volume, grid: Grid) -> None:
        assert sorted(volume.grid.shape) == sorted(grid.shape)
        corners = [sorted(map(tuple, np.round(g.corners(), 2))) for g in (volume.grid, grid)]
        np.testing.assert_allclose(corners[0], corners[1], atol=0.011)
        assert np.abs(volume.array[0] - hu_of(volume.grid)).max() <= 0.51  # whole HU are stored

    return check


@pytest.fixture
def make_series(tmp_path):
    """Write an empty series of some shape and directions: ``make_series(shape, directions)``."""

    def make(shape: tuple[int, int, int], directions: np.ndarray = GEOMETRIES["axial"], **options):
        grid = grid_of(directions, shape)
        return write_series(Volume(np.zeros((1, *shape), np.float32), grid), tmp_path / "series", **options), grid

    return make


@pytest.fixture
def series(make_series):
    """Write a small series on the grid of some directions: ``series(directions)``."""
    return partial(make_series, SHAPE)
