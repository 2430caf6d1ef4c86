from __future__ import annotations

import torch
from torch.nn import functional

from medseg.losses.prototypes import DECAY, Prototypes, coarse_voxels


def two_classes(size=(4, 4, 4)):
    """Features that point along one axis in the left half and along another in the right."""
    features = torch.zeros(1, 3, *size)
    features[:, 0, :2], features[:, 1, 2:] = 2.0, 5.0
    target = torch.zeros((1, *(4 * n for n in size)), dtype=torch.uint8)
    target[:, 4 * 2 :] = 1
    return features, target, torch.ones(target.shape)


def test_first_means_are_the_classes_directions():
    prototypes = Prototypes(2)
    prototypes.update(*two_classes())
    torch.testing.assert_close(prototypes.means, torch.eye(3)[:2])
    assert prototypes.known.all()


def test_later_means_move_by_the_decay_and_stay_of_length_one():
    prototypes = Prototypes(2)
    features, target, weight = two_classes()
    prototypes.update(features, target, weight)
    prototypes.update(features.roll(1, 1), target, weight)
    expected = functional.normalize(torch.tensor([DECAY, 1 - DECAY, 0]), dim=0)
    torch.testing.assert_close(prototypes.means[0], expected)


def test_ignored_and_weightless_voxels_leave_no_trace():
    features, target, weight = two_classes()
    wrong = features.clone()
    wrong[:, :, 0] = 100.0
    target_without, weight_without = target.clone(), weight.clone()
    target_without[:, :4] = 255
    weight_without[:, :4] = 0
    for labels, counts in ((target_without, weight), (target, weight_without)):
        prototypes = Prototypes(2)
        prototypes.update(wrong, labels, counts)
        torch.testing.assert_close(prototypes.means, torch.eye(3)[:2])


def test_weights_count():
    features, target, weight = two_classes()
    features[:, :, 0] = torch.tensor([0.0, 0.0, 3.0]).reshape(1, 3, 1, 1)
    weight[:, :4] = 0.5
    prototypes = Prototypes(2)
    prototypes.update(features, target, weight)
    torch.testing.assert_close(prototypes.means[0], functional.normalize(torch.tensor([1.0, 0.0, 0.5]), dim=0))


def test_similarity_points_at_the_own_class():
    features, target, weight = two_classes()
    prototypes = Prototypes(2)
    assert prototypes.similarity(features, target.shape[1:]) is None
    prototypes.update(features, target, weight)
    similarity = prototypes.similarity(features, target.shape[1:])
    assert similarity.shape == (1, 2, 16, 16, 16)
    torch.testing.assert_close(similarity.sum(1), torch.ones(1, 16, 16, 16))
    assert (similarity.argmax(1) == target).float().mean() > 0.95


def test_means_travel_in_a_checkpoint_whatever_their_length():
    prototypes, other = Prototypes(2), Prototypes(2)
    prototypes.update(*two_classes())
    other.load_state_dict(prototypes.state_dict())
    torch.testing.assert_close(other.means, prototypes.means)
    assert other.known.all()


def test_two_dimensions_take_the_same_road():
    features, target, weight = two_classes()
    prototypes = Prototypes(2)
    prototypes.update(features[..., 0], target[..., 0], weight[..., 0])
    assert prototypes.similarity(features[..., 0], target.shape[1:3]).shape == (1, 2, 16, 16)


def test_coarse_voxels_know_their_place():
    features, target, weight = two_classes()
    target[:, :8] = 255
    voxels = coarse_voxels(features, target, weight)
    assert voxels.places.tolist() == list(range(32, 64))
    assert voxels.indices.tolist() == [1] * 32
