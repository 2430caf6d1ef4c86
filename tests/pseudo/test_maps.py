"""Maps of known teachers: on the scan's grid, slab by slab, and how the views agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medseg.config import InferenceConfig
from medseg.geometry import Grid
from medseg.inference.forward import streamed_axis
from medseg.outputs import NetworkOutput
from medseg.preprocessing.prepare import prepare_image
from medseg.pseudo.forward import TeachersForward, Views, stream
from medseg.pseudo.maps import MapRestorer, restore_maps
from medseg.volume import Volume

CPU = torch.device("cpu")
FLIPPED = InferenceConfig(precision="float32", flips=True)


def look(teachers, volume, temperature=1.0, config=FLIPPED, prototypes=None, share=0.0):
    prepared = prepare_image(volume, teachers.plan)
    forward = TeachersForward(teachers, config, CPU, prototypes)
    axis = streamed_axis(prepared, teachers.plan)
    slabs = stream(forward, prepared)
    maps = restore_maps(slabs, MapRestorer(prepared, teachers.labels, axis), len(teachers.members), temperature, share)
    return maps, forward.finish(), prepared


def smooth_volume(grid, seed=0, scale=3.0):
    from scipy.ndimage import gaussian_filter

    array = gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 1.5)
    return Volume((array * scale / array.std()).astype(np.float32)[None], grid)


def softmax(logits):
    exact = np.exp(logits - logits.max(0))
    return exact / exact.sum(0)


def expected_likelihood(image, networks, temperature):
    """Closed form: the mean over teachers of the softmax of (shift, x, -x) * gain / T."""
    parts = [softmax(np.stack([image * 0 + n.shift, image, -image]) * n.gain / temperature) for n in networks]
    return np.mean(parts, axis=0)


@pytest.mark.parametrize("size", [(9, 21, 13), (8, 8, 8), (3, 5, 4)])
def test_maps_are_the_mean_of_calibrated_probabilities(make_teachers, known, size):
    networks = [known(1.0, 0.5), known(2.0, 1.0)]
    volume = smooth_volume(Grid(size, np.eye(4)))
    maps, _, prepared = look(make_teachers(*networks), volume, temperature=1.7)
    likely = expected_likelihood(prepared.image[0], networks, 1.7)
    assert np.abs(maps.confidence - 255 * likely.max(0)).max() < 0.51
    entropy = -(likely * np.log(likely)).sum(0) / np.log(3)
    assert np.abs(maps.uncertainty - 255 * entropy).max() < 0.6
    sure = np.sort(likely, 0)[-1] - np.sort(likely, 0)[-2] > 1e-3
    np.testing.assert_array_equal(maps.decided[sure], likely.argmax(0)[sure])
    assert not maps.doubted.any()


def test_maps_come_back_to_an_oblique_grid_as_scipy_interpolates(make_teachers, known):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec((0.1, -0.2, 0.15)).as_matrix()[:, [2, 0, 1]] * (1, -1, 1) * (0.8, 1.4, 2.1)
    grid = Grid((14, 12, 11), affine)
    network = known(1.0, 1.0)
    maps, _, prepared = look(make_teachers(network), smooth_volume(grid))
    likely = expected_likelihood(prepared.image[0], [network], 1.0)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    at = (grid.index_to(prepared.grid) @ np.c_[index, np.ones(len(index))].T)[:3]
    moved = np.stack([map_coordinates(plane, at, order=1, mode="nearest") for plane in likely])
    assert np.abs(maps.confidence.ravel() - 255 * moved.max(0)).max() < 0.6


def test_between_sure_neighbours_nobody_is_sure(make_teachers, known):
    """Interpolated confidence would be high everywhere; the mixture's is not."""
    array = np.full((8, 8, 8), 9.0, np.float32)
    array[4:] = -9.0
    fine = Grid((32, 8, 8), np.diag([0.25, 1, 1, 1.0]))
    volume = Volume(np.repeat(array, 4, axis=0)[None], fine)
    maps, _, _ = look(make_teachers(known(1.0), normalisation=_wide()), volume)
    assert maps.confidence[:8].min() > 250
    assert maps.confidence.min() < 160


def _wide():
    from medseg.plan import ChannelNormalisation

    return (ChannelNormalisation(kind="clip", low=-9, high=9, mean=0, std=1),)


def test_slabs_may_be_cut_anyhow(make_teachers, known):
    volume = smooth_volume(Grid((10, 12, 40), np.diag([1, 1, 1.3, 1.0])))
    teachers = make_teachers(known(1.0, 0.3))
    prepared = prepare_image(volume, teachers.plan)
    likely = torch.softmax(teachers.members[0].network(torch.from_numpy(prepared.image)[None]).logits[0], 0)
    found = []
    for step in (1, 5, 40):
        restorer = MapRestorer(prepared, teachers.labels, 2)
        for start in range(0, prepared.grid.shape[2], step):
            restorer.add(start, likely[..., start : start + step], None)
        found.append(restorer.finish())
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].decided, other.decided)
        np.testing.assert_array_equal(found[0].confidence, other.confidence)


def test_missing_slabs_are_noticed(make_teachers, known):
    teachers = make_teachers(known())
    prepared = prepare_image(smooth_volume(Grid((8, 8, 8), np.eye(4))), teachers.plan)
    with pytest.raises(ValueError, match="slabs are missing"):
        MapRestorer(prepared, teachers.labels, 0).finish()


@pytest.mark.parametrize("slice_axis", [0, 2])
def test_two_dimensional_teachers(make_teachers, known, slice_axis):
    patch = [8, 8, 8]
    patch[slice_axis] = 1
    teachers = make_teachers(known(1.0, 0.5), dimensions=2, patch=tuple(patch), slice_axis=slice_axis)
    volume = smooth_volume(Grid((9, 12, 8), np.eye(4)))
    prototypes = (torch.nn.functional.normalize(torch.tensor([[0.0, 1.0], [3.0, 1.0], [-3.0, 1.0]]), dim=1),)
    maps, seen, prepared = look(teachers, volume, prototypes=prototypes)
    likely = expected_likelihood(prepared.image[0], [teachers.members[0].network], 1.0)
    assert np.abs(maps.confidence - 255 * likely.max(0)).max() < 0.51
    assert maps.doubted.any()
    assert seen.features[0].shape == (2,)


def test_equal_views_agree_and_opposite_ones_do_not(make_teachers, known):
    volume = smooth_volume(Grid((16, 16, 16), np.eye(4)))
    _, same, _ = look(make_teachers(known(), known(2.0)), volume)
    assert same.agreement == pytest.approx(1.0)
    _, opposite, _ = look(make_teachers(known(), known(-1.0)), volume, config=InferenceConfig(precision="float32"))
    assert opposite.agreement < 0.05
    _, single, _ = look(make_teachers(known()), volume, config=InferenceConfig(precision="float32"))
    assert single.agreement is None


def test_pairwise_dice_by_hand(labels):
    views = Views(labels)
    first = torch.tensor([1, 1, 0, 0, 2], dtype=torch.uint8)
    second = torch.tensor([1, 0, 0, 0, 2], dtype=torch.uint8)
    views.add([first[:3], second[:3]])
    views.add([first[3:], second[3:]])
    assert views.dice() == pytest.approx((2 / 3 + 1) / 2)


def test_nothing_found_is_no_agreement(labels):
    views = Views(labels)
    views.add([torch.zeros(5, dtype=torch.uint8)] * 3)
    assert views.dice() is None


class High(torch.nn.Module):
    """Calls everything high; its features know better where the scan is low."""

    def forward(self, image):
        logits = torch.cat([image * 0, image * 0 + 5, image * 0 - 5], 1)
        coarse = torch.nn.functional.avg_pool3d(image, 4)
        return NetworkOutput(logits, (), torch.cat([coarse, torch.ones_like(coarse)], 1))


@pytest.fixture
def half_low():
    """A scan that is high, then low, and prototypes of background, high and low."""
    array = np.full((16, 16, 16), 5.0, np.float32)
    array[8:] = -5.0
    means = torch.tensor([[0.0, 1.0], [5.0, 1.0], [-5.0, 1.0]])
    return Volume(array[None], Grid((16, 16, 16), np.eye(4))), (torch.nn.functional.normalize(means, dim=1),)


def test_features_that_resemble_another_class_are_doubted(make_teachers, known, half_low):
    volume, prototypes = half_low
    maps, seen, _ = look(make_teachers(High()), volume, prototypes=prototypes)
    assert (maps.decided == 1).all()
    assert not maps.doubted[:6].any()
    assert maps.doubted[10:].all()
    assert len(seen.features) == 1
    shy, _, _ = look(make_teachers(known(features=False)), volume, config=FLIPPED)
    assert not shy.doubted.any()


def test_labels_move_to_what_their_voxels_resemble(make_teachers, half_low):
    """At a share of 0.6 the low half's similarity outvotes a network that is sure of high."""
    volume, prototypes = half_low
    teachers = make_teachers(High())
    moved, _, _ = look(teachers, volume, prototypes=prototypes, share=0.6)
    assert (moved.decided[:6] == 1).all()
    assert (moved.decided[10:] == 2).all()
    high = softmax(np.array([0.0, 5.0, -5.0]))[1]
    cosine = torch.tensor([[-5.0, 1.0]]) / 26**0.5 @ prototypes[0].T
    low = float((cosine / 0.1).softmax(1)[0, 2])
    assert np.abs(moved.confidence[12:] - 255 * 0.6 * low).max() < 0.51 + 255 * 0.4 * 1e-3
    kept, _, _ = look(teachers, volume, prototypes=prototypes, share=0.4)
    assert (kept.decided == 1).all()
    assert np.abs(kept.confidence[12:] - 255 * 0.6 * high).max() < 0.51 + 255 * 0.4 * 1e-3
