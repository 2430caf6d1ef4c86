from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import affine_transform

from medseg.config import AugmentationConfig
from medseg.data.spatial import NO_FOLD, SpatialChange, SpatialDrawer, read_patch, turn_and_resize

ALL = (0, 1, 2)
ALWAYS = AugmentationConfig(rotation_p=1, scaling_p=1, elastic_p=1, mirror_p=0.5)


def change_of(degrees, size=1.0, spacing=(1.0, 1.0, 1.0), axes=ALL, **more):
    return SpatialChange(turn_and_resize(np.radians(degrees), size, spacing, axes), axes, **more)


@pytest.mark.parametrize("identity", [SpatialChange(), change_of((0, 0, 0)), change_of((0, 0), axes=(0, 2))])
def test_identity_returns_the_exact_patch(case_of, identity):
    case = case_of(channels=2)
    image, target, _ = read_patch(case, (5, 6, 7), (16, 12, 9), identity)
    there = np.s_[5:21, 6:18, 7:16]
    assert np.array_equal(image, case.image[(slice(None), *there)])
    assert np.array_equal(target, case.target[there])


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))])
@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_quarter_turns_equal_rot90(case_of, axis, plane, turns):
    case = case_of((30, 30, 30))
    angles = np.zeros(3)
    angles[axis] = 90 * turns
    image, target, _ = read_patch(case, (5, 5, 5), (18, 18, 18), change_of(angles))
    there = np.s_[5:23, 5:23, 5:23]
    np.testing.assert_allclose(image[0], np.rot90(case.image[0][there], -turns, plane), atol=2e-5)
    assert np.array_equal(target, np.rot90(case.target[there], -turns, plane))


def test_agrees_with_scipy(case_of):
    case, start, patch = case_of((40, 40, 40)), np.array((12, 11, 10)), (16, 18, 14)
    change = change_of((20, -15, 40), 1.2, (1.0, 0.8, 1.5))
    image, target, _ = read_patch(case, start, patch, change)
    half = (np.array(patch) - 1) / 2
    offset = start + half - change.matrix @ half
    expected = affine_transform(case.image[0].astype(float), change.matrix, offset, patch, order=1)
    np.testing.assert_allclose(image[0], expected, atol=1e-4)
    nearest = affine_transform(case.target, change.matrix, offset, patch, order=0)
    assert (target.numpy() != nearest).mean() < 1e-3  # ties may be rounded either way


def test_agrees_with_grid_sample_where_deformed(case_of):
    case, patch = case_of((40, 40, 40)), (16, 16, 16)
    shifts = np.full((3, 7, 7, 7), 1.25, np.float32) * np.array([1, -1, 2], np.float32)[:, None, None, None]
    change = change_of((30, 10, 0), 0.9, shifts=shifts)
    image, *_ = read_patch(case, (12, 12, 12), patch, change)
    # equal shifts of all control points are a translation before the matrix
    offsets = np.stack(np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij"), -1)
    points = (offsets + np.array((1.25, -1.25, 2.5))) @ change.matrix.T + 19.5
    grid = torch.from_numpy(points[None, ..., ::-1] * 2 / 39 - 1).float()
    expected = F.grid_sample(torch.from_numpy(case.image)[None], grid, align_corners=True)[0]
    np.testing.assert_allclose(image, expected, atol=1e-3)


def test_resizing_enlarges_things():
    matrix = turn_and_resize(np.zeros(3), 2.0, (1, 1, 1), ALL)
    np.testing.assert_allclose(matrix, np.eye(3) / 2)


def test_rotation_is_rigid_in_millimetres():
    spacing = np.array((0.7, 1.1, 2.0))
    matrix = turn_and_resize(np.radians([10, 25, -40]), 1.0, spacing, ALL)
    physical = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
    np.testing.assert_allclose(physical @ physical.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(physical) == pytest.approx(1)
    assert not np.allclose(matrix @ matrix.T, np.eye(3), atol=0.1)  # in voxels it is not


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"patch": (16, 16, 1), "dimensions": 2},
        {"patch": (1, 16, 16), "dimensions": 2, "slice_axis": 0},
        {"patch": (16, 16, 8), "spacing": (1.0, 1.0, 5.0)},
        {"patch": (16, 4, 20), "spacing": (1.0, 4.0, 1.0), "slice_axis": 1},
    ],
)
def test_image_and_mask_stay_aligned(plan_of, case_of, array_case, kind):
    plan, mask = plan_of(**kind), case_of().target
    planes = np.stack([mask == 1, mask == 2]).astype(np.float32)
    drawer, rng = SpatialDrawer(ALWAYS, plan), np.random.default_rng(0)
    seen = 0
    for _ in range(25):
        image, target, _ = read_patch(array_case(planes, mask), (10, 7, 13), plan.patch, drawer.draw(rng))
        assert image.shape == (2, *plan.patch)
        for index, plane in enumerate(image, start=1):  # the nearest neighbour has at least an eighth of the weight
            assert (plane[target == index] >= 0.124).all()
            assert (target[plane > 0.876] == index).all()
            seen += int((target == index).sum())
    assert seen


def test_ignored_voxels_survive_and_never_blend(plan_of, case_of):
    case = case_of()
    case.target[10:14] = 255
    drawer, rng = SpatialDrawer(ALWAYS, plan_of()), np.random.default_rng(1)
    found = [set(read_patch(case, (6, 7, 8), (16, 16, 16), drawer.draw(rng))[1].unique().tolist()) for _ in range(20)]
    assert set().union(*found) == {0, 1, 2, 255}


@pytest.mark.parametrize("start", [(-6, -6, -6), (20, 22, 24), (-20, 40, 0)])
def test_outside_is_padded_as_the_case_pads(case_of, array_case, start):
    inside = case_of()
    case = array_case(inside.image * 0 + 3, inside.target, outside=-2.0)
    image, target, _ = read_patch(case, start, (16, 16, 16), change_of((20, 30, 10), 0.8))
    assert image.min() == -2
    assert image.max() <= 3.0001
    assert target.shape == (16, 16, 16)


def test_only_the_needed_voxels_are_read(case_of):
    case = case_of((60, 60, 60))
    patch = (20, 20, 20)
    read_patch(case, (20, 20, 20), patch, SpatialChange(flips=(0,)))
    read_patch(case, (20, 20, 20), patch, change_of((0, 0, 45)))
    read_patch(case, (20, 20, 20), patch, change_of((0, 45), axes=(0, 1)))
    sizes = [size for _, size in case.reads]
    assert sizes[0] == patch
    assert sizes[1][2] <= 22
    assert max(sizes[1]) <= math.ceil(19 * math.sqrt(2)) + 2
    assert sizes[2][2] == 20


def test_never_mirrored_along_a_forbidden_axis(plan_of):
    drawer = SpatialDrawer(AugmentationConfig(mirror_p=1.0), plan_of(mirror=(False, True, False)))
    rng = np.random.default_rng(0)
    assert {drawer.draw(rng).flips for _ in range(50)} == {(1,)}


def test_a_sided_phantom_keeps_its_side(plan_of, array_case):
    mask = np.ones((60, 60, 60), np.uint8)
    mask[30:] = 2
    case = array_case(mask[None].astype(np.float32), mask)
    plan = plan_of(mirror=(False, True, True))
    drawer = SpatialDrawer(AugmentationConfig(rotation_p=1, scaling_p=1, mirror_p=1), plan)
    rng = np.random.default_rng(0)
    for _ in range(30):
        _, target, _ = read_patch(case, (22, 22, 22), plan.patch, drawer.draw(rng))
        assert (target[:8] == 1).float().mean() > 0.75
        assert (target[8:] == 2).float().mean() > 0.75


def test_mirroring_flips_image_and_mask(case_of):
    case = case_of()
    image, target, _ = read_patch(case, (5, 5, 5), (16, 16, 16), SpatialChange(flips=(0, 2)))
    there = np.s_[5:21, 5:21, 5:21]
    assert np.array_equal(image[0], case.image[0][there][::-1, :, ::-1])
    assert np.array_equal(target, case.target[there][::-1, :, ::-1])


def test_draws_lie_in_their_ranges_with_their_probabilities(plan_of):
    config = AugmentationConfig(rotation_p=0.3, scaling_p=0.2, scaling=(0.7, 1.4), mirror_p=0.5)
    drawer, rng = SpatialDrawer(config, plan_of()), np.random.default_rng(3)
    changes = [drawer.draw(rng) for _ in range(2000)]
    moved = [c.matrix for c in changes if c.matrix is not None]
    assert len(moved) / 2000 == pytest.approx(1 - 0.7 * 0.8, abs=0.04)
    sizes = np.array([np.linalg.det(m) ** (-1 / 3) for m in moved])
    assert sizes.min() >= 0.7
    assert sizes.max() <= 1.4
    turned = [m for m, s in zip(moved, sizes, strict=True) if not np.allclose(m * s, np.eye(3))]
    assert len(turned) / 2000 == pytest.approx(0.3, abs=0.04)
    assert np.mean([0 in c.flips for c in changes]) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("kind", "degrees"),
    [
        ({}, 30),
        ({"patch": (16, 16, 1), "dimensions": 2}, 180),
        ({"patch": (32, 16, 1), "dimensions": 2}, 15),
        ({"patch": (32, 16, 1), "dimensions": 2, "spacing": (1.0, 2.0, 2.0)}, 180),
        ({"patch": (16, 16, 4), "spacing": (1.0, 1.0, 3.5)}, 180),
    ],
)
def test_angles_follow_the_plan_and_the_configuration(plan_of, kind, degrees):
    assert SpatialDrawer(AugmentationConfig(), plan_of(**kind)).degrees == degrees
    assert SpatialDrawer(AugmentationConfig(rotation_degrees=7), plan_of(**kind)).degrees == 7


def test_anisotropic_patches_move_in_plane_only(plan_of):
    drawer = SpatialDrawer(ALWAYS, plan_of((16, 8, 16), spacing=(1.0, 3.5, 1.0), slice_axis=1))
    change = drawer.draw(np.random.default_rng(0))
    assert change.axes == (0, 2)
    assert change.shifts.shape[0] == 2
    np.testing.assert_array_equal(change.matrix[1], (0, 1, 0))
    np.testing.assert_array_equal(change.matrix[:, 1], (0, 1, 0))


def test_a_single_slice_is_not_turned_out_of_its_scan(plan_of, case_of):
    """Of a 3D patch of one slice all voxels come from that slice: three axes left a line of it, and padding."""
    case, plan = case_of((40, 40, 1)), plan_of((12, 12, 1), spacing=(1.0, 1.0, 1.0), slice_axis=2)
    case.outside = -99
    drawer = SpatialDrawer(ALWAYS, plan)
    assert drawer.axes == (0, 1)
    image, *_ = read_patch(case, (14, 14, 0), plan.patch, drawer.draw(np.random.default_rng(0)))
    assert image.min() >= case.image.min()


def test_deformations_do_not_fold(plan_of, array_case):
    plan, shape = plan_of((40, 40, 40)), (80, 80, 80)
    ramp = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
    case = array_case(ramp, np.zeros(shape, np.uint8))
    drawer = SpatialDrawer(AugmentationConfig(elastic_p=1, elastic_mm=3, rotation_p=0, scaling_p=0, mirror_p=0), plan)
    change = drawer.draw(np.random.default_rng(5))
    assert (
        np.abs(change.shifts).max() <= NO_FOLD * 13 + 1e-5
    )  # 39 voxels between the first and the last, in 3 intervals of at least 4 x 3
    places, *_ = read_patch(case, (20, 20, 20), plan.patch, change)
    moved = np.abs(places.numpy() - ramp[:, 20:60, 20:60, 20:60])
    assert moved.max() > 1
    jacobian = np.stack([np.stack(np.gradient(p)) for p in places.numpy()])
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0


def test_equal_generators_draw_equal_changes(plan_of):
    drawer = SpatialDrawer(ALWAYS, plan_of())
    first, second, other = (drawer.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    np.testing.assert_array_equal(first.shifts, second.shifts)
    assert not np.array_equal(first.matrix, other.matrix)
