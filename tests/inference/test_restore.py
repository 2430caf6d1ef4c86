"""The way back to the scan's grid, against scipy and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.errors import LabelError, ModelError
from medseg.geometry import Grid
from medseg.inference import restore as restore_module
from medseg.inference.restore import Restorer, decide
from medseg.labels import LabelMap

FOUR = LabelMap.parse({"a": 1, "b": 300, "c": 7})


def grid_of(shape, spacing, seed, order=(0, 1, 2), flips=(1, 1, 1)) -> Grid:
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.random.default_rng(seed).normal(0, 0.15, 3)).as_matrix()
    affine[:3, :3] = turn[:, list(order)] * np.array(flips) * spacing
    affine[:3, 3] = (5, -60, 31)
    return Grid(shape, affine)


grids = st.builds(
    grid_of,
    shape=st.tuples(*[st.integers(1, 13)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    seed=st.integers(0, 99),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
)
spacings = st.tuples(*[st.floats(0.5, 4)] * 3)


def restore(logits: np.ndarray, grid: Grid, source: Grid, labels: LabelMap, axis: int = 0, step: int = 1000):
    restorer = Restorer(grid, source, labels, axis)
    values = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))
    for start in range(0, grid.shape[axis], step):
        restorer.add(start, values.narrow(1 + axis, start, min(step, grid.shape[axis] - start)))
    return restorer.finish()


def interpolated(logits: np.ndarray, grid: Grid, source: Grid) -> np.ndarray:
    """Every logit at every voxel of the scan, by scipy."""
    indices = np.stack(np.meshgrid(*map(np.arange, source.shape), indexing="ij"))
    matrix = source.index_to(grid)
    at = np.tensordot(matrix[:3, :3], indices, 1) + matrix[:3, 3, None, None, None]
    return np.stack([ndimage.map_coordinates(k.astype(float), at, order=1, mode="nearest") for k in logits])


def smooth_logits(outputs: int, shape, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(outputs, *shape))
    return ndimage.gaussian_filter(noise, (0, 1.2, 1.2, 1.2)).astype(np.float32)


@settings(max_examples=40)
@given(source=grids, spacing=spacings, seed=st.integers(0, 99))
def test_equals_scipy_interpolation_and_argmax(source, spacing, seed):
    grid = source.canonical().resampled(spacing)
    logits = smooth_logits(4, grid.shape, seed)
    mask = restore(logits, grid, source, FOUR).mask
    expected = interpolated(logits, grid, source)
    indices = np.searchsorted([0, 1, 7, 300], mask.array)
    channel = np.array([0, 1, 2, 3])[indices]
    chosen = np.take_along_axis(expected, channel[None], axis=0)[0]
    assert (chosen >= expected.max(axis=0) - 1e-4).all()  # a tie within rounding may fall either way
    assert (channel == expected.argmax(axis=0)).mean() > 0.999 or channel.size < 1000
    assert mask.grid is source
    assert mask.array.dtype == np.uint16


@settings(max_examples=40)
@given(source=grids, spacing=spacings, seed=st.integers(0, 99), axis=st.integers(0, 2), step=st.integers(1, 5))
def test_slabs_change_no_voxel(source, spacing, seed, axis, step):
    grid = source.canonical().resampled(spacing)
    logits = smooth_logits(4, grid.shape, seed)
    whole, slabs = restore(logits, grid, source, FOUR), restore(logits, grid, source, FOUR, axis, step)
    np.testing.assert_array_equal(slabs.mask.array, whole.mask.array)
    assert slabs.confidence == pytest.approx(whole.confidence, rel=1e-5)


@settings(max_examples=20)
@given(source=grids)
def test_an_equal_spacing_restores_every_voxel(source):
    """Reordering and flips alone: the argmax comes back voxel by voxel."""
    grid = source.canonical()
    logits = smooth_logits(4, grid.shape, 0)
    back = source.to_canonical().apply(restore(logits, grid, source, FOUR).mask.array)
    np.testing.assert_array_equal(back, np.array([0, 1, 7, 300])[logits.argmax(axis=0)])


def test_regions_are_painted_in_their_order():
    labels = LabelMap.parse({"kidney": [1, 2], "tumour": 2})
    grid = Grid((4, 1, 1), np.eye(4))
    logits = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]], dtype=np.float32)[:, :, None, None]
    assert restore(logits, grid, grid, labels).mask.array.ravel().tolist() == [0, 1, 2, 2]


def test_a_region_that_could_never_show_is_refused():
    with pytest.raises(LabelError, match="'tumour' lies within 'kidney', which is painted over it: list it after"):
        LabelMap.parse({"tumour": 2, "kidney": [1, 2]})


def test_regions_of_one_name_are_refused():
    """Scores and clean-up rules go by name: two of one name would be one."""
    labels = [{"value": 1, "name": "kidney"}, {"value": 2, "name": "tumour"}]
    regions = [{"name": "kidney", "values": [1, 2], "paints": 1}, {"name": "kidney", "values": [2], "paints": 2}]
    with pytest.raises(LabelError, match=r"region names repeat: \['kidney', 'kidney'\]"):
        LabelMap.parse({"labels": labels, "regions": regions})


@settings(max_examples=20)
@given(source=grids, spacing=spacings, seed=st.integers(0, 99))
def test_regions_equal_scipy_interpolation_and_threshold(source, spacing, seed):
    labels = LabelMap.parse({"body": [1, 2, 3], "kidney": [2, 3], "tumour": 3})
    grid = source.canonical().resampled(spacing)
    logits = smooth_logits(3, grid.shape, seed)
    mask = restore(logits, grid, source, labels).mask.array
    expected = np.zeros(source.shape, dtype=int)
    values = interpolated(logits, grid, source)
    for region, value in zip(values, (1, 2, 3), strict=True):
        expected[region > 0] = value
    sure = (np.abs(values) > 1e-4).all(axis=0)
    np.testing.assert_array_equal(mask[sure], expected[sure])


def test_equals_monai_invertd(oblique):
    """The same logits through MONAI's inverse of Orientation and Spacing, inside the scan."""
    from monai.data import MetaTensor
    from monai.transforms import Compose, Invertd, Orientationd, Spacingd

    source = oblique((26, 22, 20), spacing=(0.9, 1.2, 1.8), flips=(-1, 1, -1))
    chain = Compose(
        [
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", (1.4, 1.4, 1.4), mode="bilinear", padding_mode="border"),
        ]
    )
    affine = torch.from_numpy(source.affine.copy())
    prepared = chain({"image": MetaTensor(torch.zeros(1, *source.shape), affine=affine)})
    grid = Grid(tuple(prepared["image"].shape[1:]), prepared["image"].affine.numpy())
    logits = smooth_logits(4, grid.shape, 3)
    prepared["logits"] = MetaTensor(torch.from_numpy(logits), affine=prepared["image"].affine)
    back = Invertd("logits", chain, "image", nearest_interp=False)(prepared)["logits"].numpy()
    theirs = np.array([0, 1, 7, 300])[back.argmax(axis=0)]
    ours = restore(logits, grid, source, FOUR).mask.array
    inner = (slice(3, -3),) * 3
    assert (ours[inner] == theirs[inner]).mean() > 0.999


def test_confidence_is_the_mean_probability_of_the_foreground():
    labels = LabelMap.parse({"a": 1})
    grid = Grid((3, 1, 1), np.eye(4))
    logits = np.array([[0, 9, 0], [2, 0, 1]], dtype=np.float32)[:, :, None, None]
    expected = (1 / (1 + np.exp(-2)) + 1 / (1 + np.exp(-1))) / 2
    assert restore(logits, grid, grid, labels).confidence == pytest.approx(expected)
    assert restore(-logits * [[[[-1]]], [[[1]]]], grid, grid, labels).confidence == 1.0
    region = LabelMap.parse({"all": [1, 2], "core": 2})
    assert restore(logits[::-1], grid, grid, region).confidence == pytest.approx(
        np.mean(1 / (1 + np.exp(-np.array([2, 9, 1]))))
    )


def test_decide_takes_the_first_of_equal_classes():
    assert decide(torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 2.0]]), FOUR).tolist() == [0, 0]


def test_missing_slabs_are_noticed():
    grid = Grid((6, 2, 2), np.eye(4))
    restorer = Restorer(grid, grid, FOUR, 0)
    restorer.add(0, torch.zeros(4, 3, 2, 2))
    with pytest.raises(ValueError, match="3 layers"):
        restorer.finish()


@settings(max_examples=20)
@given(source=grids, spacing=spacings, seed=st.integers(0, 99))
def test_single_voxels_and_whole_layers_decide_alike(source, spacing, seed):
    """The two ways to compute disputed voxels differ by rounding alone."""
    grid = source.canonical().resampled(spacing)
    logits = smooth_logits(4, grid.shape, seed)
    masks = []
    for share in (-1.0, 2.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(restore_module, "DENSE_SHARE", share)
            masks.append(restore(logits, grid, source, FOUR).mask.array)
    differs = masks[0] != masks[1]
    best = np.sort(interpolated(logits, grid, source), axis=0)
    assert (best[-1] - best[-2])[differs].max(initial=0) < 1e-5


def test_a_label_map_with_too_many_outputs_is_refused():
    labels = LabelMap.parse({f"c{i}": i for i in range(1, 256)})
    grid = Grid((2, 2, 2), np.eye(4))
    with pytest.raises(ModelError, match="256 outputs"):
        Restorer(grid, grid, labels, 0)


@given(seed=st.integers(0, 99))
def test_decide_is_argmax(seed):
    logits = np.random.default_rng(seed).integers(-3, 3, (4, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(decide(torch.from_numpy(logits), FOUR).numpy(), logits.argmax(axis=0))
