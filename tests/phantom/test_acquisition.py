"""The scanner: the same body at the same place on every grid, with partial volume, blur and noise."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from medseg.geometry import Grid
from medseg.phantom.acquisition import HU_RANGE, Scanner, acquire
from medseg.phantom.body import LIVER, SPLEEN, Body, Pose, Structure
from medseg.phantom.organs import draw_body
from medseg.phantom.protocols import DICOM_PROTOCOLS, NIFTI_PROTOCOLS, Protocol
from medseg.phantom.shapes import Above, Ellipsoid
from medseg.phantom.waves import Waves

STILL = Pose(
    np.eye(3, dtype=np.float32),
    np.zeros((3, 1), dtype=np.float32),
    Waves.random(np.random.default_rng(0), (100, 200), 0.0, components=3),
)
QUIET = Scanner(blur_mm=0.0, noise_hu=0.0)


def centred(shape: tuple[int, int, int], spacing: float) -> Grid:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return Grid(shape, affine)


def test_the_same_seed_gives_the_same_scan_and_another_seed_another():
    grid = centred((40, 32, 16), 9.0)
    first, again = (acquire(draw_body(3), grid, Scanner(), 5) for _ in range(2))
    np.testing.assert_array_equal(first.volume.array, again.volume.array)
    np.testing.assert_array_equal(first.mask.array, again.mask.array)
    noise = acquire(draw_body(3), grid, Scanner(), 6)
    np.testing.assert_array_equal(noise.mask.array, first.mask.array)
    assert (noise.volume.array != first.volume.array).any()
    assert (acquire(draw_body(4), grid, Scanner(), 5).mask.array != first.mask.array).any()


def test_partial_volume_is_the_share_of_each_tissue():
    body = Body(STILL, (), (Structure(Above(0.0), 100.0, 1), Structure(Ellipsoid((0, 0, 40), (9, 9, 9)), 300.0, 2)))
    grid = Grid((3, 3, 3), np.array([[4.0, 0, 0, -4], [0, 4.0, 0, -4], [0, 0, 4.0, -3], [0, 0, 0, 1]]))
    phantom = acquire(body, grid, Scanner(samples=4, blur_mm=0, noise_hu=0), 0)
    # The middle voxels reach from -1 to 3 mm: three quarters lie above the plane.
    np.testing.assert_allclose(phantom.volume.array[0, :, :, 1], 0.75 * 100 + 0.25 * -1000)
    np.testing.assert_array_equal(phantom.mask.array[1, 1], [0, 1, 1])
    ball = acquire(body, centred((30, 30, 60), 2.0), Scanner(samples=3, blur_mm=0, noise_hu=0), 0)
    volume = (ball.volume.array[0, :, :, 31:] - 100).sum() / 200 * 8
    assert volume == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.02)


def test_two_grids_see_the_same_body_at_the_same_place():
    body, rng = draw_body(11), np.random.default_rng(0)
    plain = acquire(body, Protocol("").draw(rng), QUIET, 0)
    oblique = acquire(
        body,
        Protocol("", axcodes="PIL", shape=(76, 50, 92), spacing=(4, 5, 4), degrees=(15, -12, 18)).draw(rng),
        QUIET,
        0,
    )
    other = oblique.volume.grid
    indices = np.stack(np.meshgrid(*map(np.arange, other.shape), indexing="ij")).reshape(3, -1)
    matrix = other.index_to(plain.volume.grid)
    places = matrix[:3, :3] @ indices + matrix[:3, 3:]
    seen = np.logical_and(places >= 0, places <= np.array(plain.volume.grid.shape)[:, None] - 1).all(axis=0)
    assert seen.mean() > 0.5
    expected = map_coordinates(plain.volume.array[0], places[:, seen], order=1)
    assert np.median(np.abs(expected - oblique.volume.array.reshape(-1)[seen])) < 8
    labels = oblique.mask.array.reshape(-1)[seen]
    nearest = plain.mask.array[tuple(np.rint(places[:, seen]).astype(int))]
    for label in (LIVER, SPLEEN):
        both = np.logical_and(nearest == label, labels == label).sum()
        assert 2 * both / ((nearest == label).sum() + (labels == label).sum()) > 0.93
        shift = (indices[:, seen][:, labels == label].mean(axis=1), indices[:, seen][:, nearest == label].mean(axis=1))
        assert np.abs(shift[0] - shift[1]).max() < 0.5  # voxels


@pytest.mark.parametrize("protocol", [*NIFTI_PROTOCOLS, *DICOM_PROTOCOLS], ids=lambda protocol: protocol.name)
def test_the_liver_is_on_the_right_and_the_spleen_on_the_left_however_the_scan_lies(protocol: Protocol):
    coarse = Protocol(
        protocol.name,
        tuple(max(size // 3, 8) for size in protocol.shape),
        tuple(3 * step for step in protocol.spacing),
        protocol.axcodes,
        protocol.degrees,
        protocol.centre,
    )
    phantom = acquire(draw_body(2), coarse.draw(np.random.default_rng(1)), QUIET, 0)
    affine = phantom.mask.grid.affine
    middle = {
        label: affine[:3, :3] @ np.argwhere(phantom.mask.array == label).mean(axis=0) + affine[:3, 3]
        for label in (LIVER, SPLEEN)
    }
    assert middle[LIVER][0] > 25
    assert middle[SPLEEN][0] < -50


@pytest.mark.parametrize("protocol", NIFTI_PROTOCOLS, ids=lambda protocol: protocol.name)
def test_protocols_lie_as_they_say(protocol: Protocol):
    grid = protocol.draw(np.random.default_rng(0))
    assert grid.axcodes == protocol.axcodes
    assert grid.is_orthogonal
    np.testing.assert_allclose(grid.spacing, protocol.spacing, rtol=0.05)
    np.testing.assert_allclose(grid.corners().mean(axis=0), protocol.centre, atol=1e-6)
    tilted = np.abs(grid.directions).max(axis=0).min() < 0.999
    assert tilted == any(protocol.degrees)


def test_noise_has_its_strength_and_neighbours_share_it():
    empty = Body(STILL, (), (Structure(Ellipsoid((0, 0, 0), (500, 500, 500)), 50.0),))
    scanner = Scanner(samples=1, noise_hu=12.0, grain_mm=2.0)
    noise = acquire(empty, centred((48, 48, 24), 2.0), scanner, 0).volume.array[0] - 50
    assert noise.std() == pytest.approx(12, rel=0.02)
    correlation = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-(2.0**2) / (4 * 2.0**2)), abs=0.05)
    far = np.corrcoef(noise[:-12].ravel(), noise[12:].ravel())[0, 1]
    assert abs(far) < 0.05


def test_a_scan_is_whole_hounsfield_units_in_the_range_of_ct(phantoms):
    for phantom in phantoms:
        values = phantom.volume.array
        assert values.dtype == np.float32
        assert (values == np.rint(values)).all()
        assert values.min() >= HU_RANGE[0]
        assert values.max() <= HU_RANGE[1]
        assert phantom.volume.modality == "CT"
        assert phantom.volume.grid is phantom.mask.grid
