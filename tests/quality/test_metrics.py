import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg.errors import GeometryError, LabelError, ReasonCode
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.quality import metrics
from medseg.quality.metrics import ROUNDING_MM, State, evaluate_case, image_diagonal_mm, surface_distances_mm
from medseg.volume import Mask

ONE = LabelMap.parse({"organ": 1})
TWO = LabelMap.parse({"organ": 1, "tumour": 2})
SHAPE = (9, 8, 7)

spacings = st.tuples(*[st.sampled_from([0.7, 1.0, 3.1])] * 3)
masks = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 1, 2]))


def grid_of(shape=SHAPE, spacing=(1.0, 1.0, 1.0), shear=0.0):
    affine = np.diag([*spacing, 1.0])
    affine[0, 2] = shear
    return Grid(shape, affine)


def score(prediction, truth, labels=ONE, grid=None, tolerance_mm=2.0):
    grid = grid or grid_of(prediction.shape)
    return evaluate_case(Mask(prediction, grid), Mask(truth, grid), labels, tolerance_mm)[0]


def cube(start, side=4, shape=(20, 20, 20)):
    array = np.zeros(shape, dtype=np.uint8)
    array[tuple(slice(s, s + side) for s in start)] = 1
    return array


def brute_force_hd95_nsd(prediction, truth, grid, tolerance_mm):
    """Every distance between every two surface voxels, in world mm."""
    points = []
    for region in (prediction, truth):
        surface = region & ~ndimage.binary_erosion(region)
        points.append(np.argwhere(surface) @ grid.affine[:3, :3].T)
    distances = cdist(*points)
    forth, back = distances.min(axis=1), distances.min(axis=0)
    limit = tolerance_mm + ROUNDING_MM  # a distance of 1 mm comes out as 1.0000000000000002 by one way or the other
    within = (forth <= limit).sum() + (back <= limit).sum()
    return max(np.percentile(forth, 95), np.percentile(back, 95)), within / (len(forth) + len(back))


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_shifted_cubes_follow_the_closed_form(shift):
    result = score(
        cube((5, 5, 5)), cube((5 + shift, 5, 5)), tolerance_mm=0.0, grid=grid_of((20, 20, 20), (2.0, 1.0, 1.0))
    )
    common = (4 - shift) * 16
    assert result.state is State.SCORED
    assert result.dice == pytest.approx(2 * common / 128)
    assert result.iou == pytest.approx(common / (128 - common))
    assert result.hd95_mm == pytest.approx(2.0 * shift)  # far faces: more than 5 % of the surface, shifted along x
    assert result.volume_error_ml == 0
    assert result.true_ml == pytest.approx(64 * 2 / 1000)


def test_concentric_spheres_are_apart_by_the_difference_of_their_radii():
    distance = np.linalg.norm(np.indices((61, 61, 61)) - 30, axis=0)
    result = score((distance <= 25).astype(np.uint8), (distance <= 20).astype(np.uint8), tolerance_mm=6.0)
    assert result.hd95_mm == pytest.approx(5.0, abs=0.75)
    assert result.nsd == 1.0
    assert result.dice == pytest.approx(2 * 20**3 / (20**3 + 25**3), abs=0.01)
    assert result.volume_error_ml == pytest.approx(4 / 3 * np.pi * (25**3 - 20**3) / 1000, rel=0.01)


@given(masks, masks, spacings, st.sampled_from([0.0, 0.8]), st.sampled_from([0.5, 1.0, 2.5]))
def test_distances_are_those_of_brute_force_on_any_grid(prediction, truth, spacing, shear, tolerance_mm):
    grid = grid_of(spacing=spacing, shear=shear)
    results = evaluate_case(Mask(prediction, grid), Mask(truth, grid), TWO, tolerance_mm)
    for value, result in zip((1, 2), results, strict=True):
        predicted, true = prediction == value, truth == value
        if predicted.any() and true.any():
            hd95, nsd = brute_force_hd95_nsd(predicted, true, grid, tolerance_mm)
            assert result.hd95_mm == pytest.approx(hd95, abs=1e-9)
            assert result.nsd == pytest.approx(nsd)


@pytest.mark.parametrize("spacing", [0.1, 0.2, 0.4, 0.5, 1.0])
def test_outlines_as_far_apart_as_the_tolerance_are_equal_whatever_float32_makes_of_the_spacing(spacing):
    prediction, truth = np.zeros((2, 30, 5, 5), dtype=np.uint8)
    prediction[2], truth[2 + round(2 / spacing)] = 1, 1
    grid = grid_of(truth.shape, np.float32([spacing] * 3))
    assert score(prediction, truth, grid=grid, tolerance_mm=2.0).nsd == 1.0
    assert score(prediction, truth, grid=grid, tolerance_mm=1.99).nsd == 0.0


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # MONAI calls its own deprecated way
def test_monai_gives_the_same_numbers():
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice

    rng = np.random.default_rng(3)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(40, 36, 30)), 3) for _ in range(2)]
    predicted, true = smooth[0] + smooth[1] > 0.02, smooth[0] > 0.02
    spacing = (0.8, 0.8, 2.5)
    result = score(predicted.astype(np.uint8), true.astype(np.uint8), grid=grid_of((40, 36, 30), spacing))
    pair = [torch.from_numpy(region[None, None]).float() for region in (predicted, true)]
    assert result.dice == pytest.approx(compute_dice(*pair).item())
    assert result.iou == pytest.approx(compute_iou(*pair).item())
    hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    assert result.hd95_mm == pytest.approx(hd95.item(), abs=1e-5)
    nsd = compute_surface_dice(*pair, [2.0], include_background=True, spacing=spacing)
    assert result.nsd == pytest.approx(nsd.item())


def test_dense_surfaces_give_the_same_distances_by_either_way(monkeypatch):
    rng = np.random.default_rng(1)
    noise = [rng.random((15, 14, 13)) < 0.3 for _ in range(2)]
    grid = grid_of((15, 14, 13), (1.0, 2.0, 0.5))
    by_transform = surface_distances_mm(*noise, grid)
    monkeypatch.setattr(metrics, "DENSE_SURFACE", 2.0)
    by_tree = surface_distances_mm(*noise, grid)
    for one, other in zip(by_transform, by_tree, strict=True):
        np.testing.assert_allclose(np.sort(one), np.sort(other), atol=1e-9)


@given(masks, masks, st.integers(0, 3), st.integers(0, 3))
def test_empty_space_around_changes_nothing(prediction, truth, before, after):
    """Scores are computed in a bounding box; padding the scan moves the box and must move no number."""
    padded = [np.pad(mask, ((before, after), (after, before), (before, 1))) for mask in (prediction, truth)]
    grids = [grid_of(shape, (1.0, 1.0, 2.0)) for shape in (SHAPE, padded[0].shape)]
    plain = evaluate_case(Mask(prediction, grids[0]), Mask(truth, grids[0]), TWO)
    spacious = evaluate_case(Mask(padded[0], grids[1]), Mask(padded[1], grids[1]), TWO)
    for one, other in zip(plain, spacious, strict=True):
        assert one.state is other.state
        if one.state is State.SCORED:
            assert one == other


@given(masks, masks)
def test_the_measures_are_symmetric(one, other):
    forth, back = score(one, other, TWO), score(other, one, TWO)
    assert (forth.dice, forth.iou, forth.hd95_mm, forth.nsd) == (back.dice, back.iou, back.hd95_mm, back.nsd)
    assert forth.volume_error_ml == -back.volume_error_ml


def test_equal_masks_are_perfect():
    result = score(cube((3, 3, 3)), cube((3, 3, 3)))
    assert (result.dice, result.iou, result.hd95_mm, result.nsd) == (1.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("predicted", "true", "state"),
    [
        pytest.param(False, True, State.MISSED, id="missed"),
        pytest.param(True, False, State.SPURIOUS, id="spurious"),
        pytest.param(False, False, State.BOTH_EMPTY, id="both empty"),
    ],
)
def test_what_cannot_be_measured_gets_the_worst_value_or_none(predicted, true, state):
    result = score(cube((3, 3, 3)) * predicted, cube((3, 3, 3)) * true)
    assert result.state is state
    diagonal = image_diagonal_mm(grid_of((20, 20, 20)))
    expected = (None,) * 4 if state is State.BOTH_EMPTY else (0.0, 0.0, diagonal, 0.0)
    assert (result.dice, result.iou, result.hd95_mm, result.nsd) == expected
    assert result.volume_ml == pytest.approx(0.064 * predicted)
    assert result.true_ml == pytest.approx(0.064 * true)


@given(masks, masks, spacings, st.sampled_from([0.0, 0.8]))
def test_no_measured_distance_is_worse_than_the_penalty(prediction, truth, spacing, shear):
    grid = grid_of(spacing=spacing, shear=shear)
    for result in evaluate_case(Mask(prediction, grid), Mask(truth, grid), TWO):
        assert result.hd95_mm is None or result.hd95_mm <= image_diagonal_mm(grid)


def test_regions_are_measured_as_unions():
    labels = LabelMap.parse({"organ_with_tumour": [1, 2], "tumour": [2]})
    truth = cube((5, 5, 5))
    truth[6, 6, 6] = 2
    whole, tumour = evaluate_case(
        Mask(cube((5, 5, 5)), grid_of(truth.shape)), Mask(truth, grid_of(truth.shape)), labels
    )
    assert (whole.target, whole.dice, whole.state) == ("organ_with_tumour", 1.0, State.SCORED)
    assert (tumour.target, tumour.dice, tumour.state) == ("tumour", 0.0, State.MISSED)


def test_ignored_voxels_count_in_no_number():
    labels = LabelMap.parse({"organ": 1, "ignore": 9})
    truth, prediction = cube((5, 5, 5)), cube((5, 5, 5))
    prediction[14:18, 5:9, 5:9] = 1
    assert score(prediction, truth, labels).dice < 1
    truth[12:20] = 9
    result = score(prediction, truth, labels)
    assert (result.dice, result.hd95_mm, result.volume_error_ml) == (1.0, 0.0, 0.0)


def test_outlines_of_a_single_slice_are_those_of_the_slice():
    """Along an axis of one voxel nothing lies outside, else every pixel would be surface."""
    disc = (np.hypot(*np.indices((41, 41)) - 20) <= 15)[..., None].astype(np.uint8)
    result = score(disc, np.roll(disc, 4, axis=0), tolerance_mm=1.0)
    assert result.hd95_mm == pytest.approx(4.0, abs=0.5)
    assert result.nsd < 0.5


def test_masks_on_different_grids_are_refused():
    array = np.ones(SHAPE, dtype=np.uint8)
    moved = Grid(SHAPE, np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    with pytest.raises(GeometryError, match="case a: the prediction has 9x8x7") as caught:
        evaluate_case(Mask(array, grid_of()), Mask(array, moved), ONE, case="a")
    assert caught.value.code is ReasonCode.GRID_MISMATCH


def test_a_truth_stored_in_another_order_is_compared_voxel_for_voxel():
    prediction = Mask(np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8), grid_of())
    affine = np.array([[0, -1, 0, 8], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])  # stored as (z, x from the right, y)
    truth = Mask(np.flip(np.moveaxis(prediction.array, 2, 0), 1), Grid((7, 9, 8), affine))
    (result,) = evaluate_case(prediction, truth, ONE)
    assert (result.dice, result.hd95_mm) == (1.0, 0.0)


@pytest.mark.parametrize("side", ["prediction", "true mask"])
def test_values_without_a_label_are_refused(side):
    known, unknown = np.ones(SHAPE, dtype=np.uint8), np.full(SHAPE, 7, dtype=np.uint8)
    pair = (unknown, known) if side == "prediction" else (known, unknown)
    with pytest.raises(LabelError, match=rf"the {side} holds values \[7\].*1 organ"):
        score(*pair)


def test_uint16_masks_are_measured():
    array = cube((5, 5, 5)).astype(np.uint16) * 300
    assert score(array, array, LabelMap.parse({"organ": 300})).dice == 1.0
