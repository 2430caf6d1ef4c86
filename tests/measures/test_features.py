import numpy as np
import pytest
from scipy import ndimage

from medseg.errors import LabelError
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.measures.features import measure_structures, organs_of
from medseg.measures.intensity import Intensity, measure_scan
from medseg.volume import Mask, Volume

LABELS = LabelMap.parse({"labels": [{"value": 1, "name": "liver"}, {"value": 5, "name": "tumour", "within": "liver"}]})
AFFINE = np.array([[0, -2.0, 0.1, 30], [1.5, 0, 0, -20], [0, 0.2, -3.0, 7], [0, 0, 0, 1]])


@pytest.fixture
def case():
    """A liver with one tumour in it and one away from it, on a flipped, permuted, oblique grid, two channels."""
    rng = np.random.default_rng(0)
    array = np.zeros((14, 12, 10), np.uint8)
    array[2:8, 2:8, 2:8] = 1
    array[4:6, 4:6, 7:9] = 5
    array[12, 10, 1:4] = 5
    grid = Grid(array.shape, AFFINE)
    return Volume(rng.normal(50, 9, (2, *array.shape)).astype(np.float32), grid), Mask(array, grid)


def test_numbers_are_numpys_and_scipys(case):
    volume, mask = case
    found = measure_structures(volume, mask, LABELS)
    assert list(found) == ["liver", "tumour"]
    for label in LABELS.labels:
        inside, measured = mask.array == label.value, found[label.name]
        assert measured.volume_ml == pytest.approx(inside.sum() * mask.grid.voxel_ml)
        centre = mask.grid.affine @ [*ndimage.center_of_mass(inside), 1]
        assert measured.centroid_mm == pytest.approx(tuple(centre[:3]), abs=1e-3)
        assert measured.components == ndimage.label(inside, np.ones((3, 3, 3)))[1]
        for channel, intensity in zip(volume.array, measured.intensity, strict=True):
            assert intensity.mean == pytest.approx(channel[inside].mean(), rel=1e-5)
            assert intensity.sd == pytest.approx(channel[inside].std(), rel=1e-5)
    assert found["tumour"].largest_share == pytest.approx(8 / 11)
    assert found["liver"].outside_share is None


def test_a_lesion_away_from_its_organ_is_counted_outside(case):
    volume, mask = case
    assert measure_structures(volume, mask, LABELS)["tumour"].outside_share == pytest.approx(3 / 11)
    attached = mask.array.copy()
    attached[9:12, 9, 3] = 1  # a bridge of liver that touches the far tumour by a corner
    found = measure_structures(volume, Mask(attached, mask.grid), LABELS)
    assert found["tumour"].outside_share == 0
    alone = np.where(mask.array == 1, np.uint8(0), mask.array)
    assert measure_structures(volume, Mask(alone, mask.grid), LABELS)["tumour"].outside_share == 1


@pytest.mark.parametrize("letter", "LRPAIS")
def test_the_touched_side_is_named_for_the_patient(letter):
    """Mark the voxels furthest in a direction of the world; whatever the axes, that side is named."""
    grid = Grid((6, 7, 8), AFFINE)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    world = index @ AFFINE[:3, :3].T
    axis, sign = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}[letter]
    array = np.zeros(grid.shape, np.uint8)
    middle = (index > 1).all(-1) & (index < np.array(grid.shape) - 2).all(-1)
    array[middle] = 1
    orientation = grid.to_canonical()
    side = [slice(2, 4)] * 3
    source = orientation.axes[axis]
    side[source] = 0 if (sign < 0) != orientation.flips[axis] else -1
    array[tuple(side)] = 1
    assert (sign * world[tuple(side)][..., axis]).min() > (sign * world[middle][..., axis]).mean()
    volume = Volume(np.zeros((1, *grid.shape), np.float32), grid)
    assert measure_structures(volume, Mask(array, grid), LABELS)["liver"].borders == letter


def test_a_single_slice_has_no_border_across():
    grid = Grid((6, 6, 1), np.eye(4))
    array = np.zeros(grid.shape, np.uint8)
    array[2:4, 2:4] = 1
    found = measure_structures(Volume(np.zeros((1, 6, 6, 1), np.float32), grid), Mask(array, grid), LABELS)
    assert found["liver"].borders == ""


def test_specks_are_no_pieces():
    array = np.zeros((30, 30, 30), np.uint8)
    array[2:20, 2:20, 2:20] = 1
    array[25, 25, 25] = 1
    grid = Grid(array.shape, np.eye(4))
    volume = Volume(np.zeros((1, *array.shape), np.float32), grid)
    assert measure_structures(volume, Mask(array, grid), LABELS)["liver"].components == 1
    array[24:27, 24:27, 24:27] = 1
    assert measure_structures(volume, Mask(array, grid), LABELS)["liver"].components == 2


def test_an_empty_mask_has_no_structures(case):
    volume, mask = case
    assert measure_structures(volume, Mask(np.zeros_like(mask.array), mask.grid), LABELS) == {}


def test_a_whole_scan_is_measured_and_a_constant_one_has_no_spread(case):
    volume, _ = case
    for channel, intensity in zip(volume.array, measure_scan(volume), strict=True):
        assert (intensity.mean, intensity.sd) == pytest.approx((channel.mean(), channel.std()), rel=1e-5)
    flat = Volume(np.full((1, 3, 3, 3), 7, np.float32), Grid((3, 3, 3), np.eye(4)))
    assert measure_scan(flat) == (Intensity(mean=7, sd=0),)


def test_organs_follow_from_regions_and_from_what_labels_say():
    assert organs_of(LABELS) == {5: (1,)}
    assert organs_of(LabelMap.parse({"liver": 1, "tumour": 2})) == {}
    assert organs_of(LabelMap.parse({"whole": [1, 2, 3], "core": [2, 3], "inner": 3})) == {2: (1,), 3: (2,)}


@pytest.mark.parametrize("within", ["kidney", "tumour"])
def test_a_label_lies_within_another_one(within):
    labels = [{"value": 1, "name": "liver"}, {"value": 2, "name": "tumour", "within": within}]
    with pytest.raises(LabelError, match="which is no other label"):
        LabelMap.parse({"labels": labels})
