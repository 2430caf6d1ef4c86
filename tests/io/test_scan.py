"""Any source is read the same way, and what belongs together must lie on one grid."""

import numpy as np
import pytest

from medseg.errors import GeometryError, ReasonCode
from medseg.geometry import Grid
from medseg.io.nifti import write_mask, write_volume
from medseg.io.scan import inspect_scan, read_case, read_scan
from medseg.volume import Case, Mask, Source, Volume

GRID = Grid((5, 4, 3), np.array([[-1.0, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, -7], [0, 0, 0, 1]]))
SHIFTED = Grid((5, 4, 3), GRID.affine + np.array([[0, 0, 0, 0.4]] + [[0.0] * 4] * 3))


@pytest.fixture
def scan(tmp_path):
    """Write a scan of a value and return its source."""

    def write(name, value, grid=GRID, channels=1):
        write_volume(tmp_path / name, Volume(np.full((channels, *grid.shape), value, np.float32), grid))
        return Source("nifti", (tmp_path / name,))

    return write


def test_both_kinds_of_source(scan, phantom, assert_in_place):
    source = scan("scan.nii", 3)
    assert inspect_scan(source).grid.matches(read_scan(source).grid)
    series = phantom()
    header, volume = inspect_scan(series.source), read_scan(series.source)
    assert header.grid.matches(volume.grid)
    assert header.modality == volume.modality == "CT"
    assert_in_place(volume, series.grid)


def test_sources_are_stacked_as_channels_in_their_order(scan):
    volume, mask = read_case(Case("a", (scan("t1.nii", 1), scan("t2.nii", 2))))
    assert mask is None
    assert volume.array[:, 0, 0, 0].tolist() == [1, 2]


def test_one_file_may_hold_all_channels(scan):
    source = scan("both.nii", 7, channels=2)
    assert read_case(Case("a", (source,)))[0].channels == 2
    assert inspect_scan(source, channels_last=True).channels == 2
    with pytest.raises(Exception, match="NOT_3D|dimensions"):
        inspect_scan(source)


def test_mask_comes_with_the_case(scan, tmp_path):
    source = scan("scan.nii", 1)
    labels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    write_mask(tmp_path / "mask.nii", Mask(labels, GRID), source)
    volume, mask = read_case(Case("a", (source,), tmp_path / "mask.nii"))
    np.testing.assert_array_equal(mask.array, labels)
    assert mask.grid.matches(volume.grid, tolerance_mm=0)


def test_channels_on_different_grids(scan):
    with pytest.raises(GeometryError, match=r"case a: channel 2 .* 0\.4 mm apart") as caught:
        read_case(Case("a", (scan("t1.nii", 1), scan("t2.nii", 2, SHIFTED))))
    assert caught.value.code == ReasonCode.GRID_MISMATCH


def test_mask_on_another_grid(scan, tmp_path):
    other = scan("other.nii", 0, Grid((5, 4, 2), GRID.affine))
    with pytest.raises(GeometryError, match="case a: the mask"):
        read_case(Case("a", (scan("scan.nii", 1),), other.files[0]))
    shifted = scan("shifted.nii", 0, SHIFTED)
    with pytest.raises(GeometryError, match="case a: the mask"):
        read_case(Case("a", (scan("scan.nii", 1),), shifted.files[0]))
