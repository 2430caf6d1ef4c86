from __future__ import annotations

import pytest
import torch

from medseg.losses.affinity import AffinityLoss, affinities, balanced_sample, nearest, squared_distances


def vectors(count=40, features=6, seed=0):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def test_distances_are_those_of_cdist():
    points = vectors()
    torch.testing.assert_close(squared_distances(points), torch.cdist(points, points) ** 2, rtol=1e-4, atol=1e-4)


def test_affinities_are_symmetric_and_one_for_the_same_voxel():
    weights = affinities(squared_distances(vectors()), torch.tensor(3.0))
    torch.testing.assert_close(weights, weights.T)
    torch.testing.assert_close(weights.diagonal(), torch.ones(40))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 50.0])
def test_the_scale_of_features_changes_nothing(factor):
    points, scans = vectors(), torch.arange(40) % 2
    predictions = vectors(40, 3, seed=1).softmax(1)
    expected = AffinityLoss()(points, predictions, scans)
    torch.testing.assert_close(AffinityLoss()(points * factor, predictions, scans), expected, rtol=1e-3, atol=1e-5)


def test_the_loss_is_the_weighted_mean_written_out():
    points, predictions = vectors(6), vectors(6, 3, seed=1).softmax(1)
    scans = torch.tensor([0, 0, 0, 1, 1, 1])
    loss = AffinityLoss()
    value = loss(points, predictions, scans)
    distances = torch.cdist(points, points) ** 2
    scale = distances[scans[:, None] != scans[None]].median()
    top = bottom = 0.0
    for i in range(6):
        for j in range(6):
            if scans[i] != scans[j]:
                weight = torch.exp(-distances[i, j] / scale)
                top += weight * ((predictions[i] - predictions[j]) ** 2).sum()
                bottom += weight
    torch.testing.assert_close(value, top / bottom, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_predictions_and_never_features():
    points = vectors().requires_grad_()
    logits = vectors(40, 3, seed=1).requires_grad_()
    AffinityLoss()(points, logits.softmax(1), torch.arange(40) % 3).backward()
    assert points.grad is None
    assert logits.grad.abs().sum() > 0


def test_one_scan_alone_has_nobody_to_agree_with():
    assert AffinityLoss()(vectors(), vectors(40, 3, seed=1).softmax(1), torch.zeros(40)).item() == 0


def test_neighbours_are_kept_both_ways():
    weights = affinities(squared_distances(vectors()), torch.tensor(3.0))
    kept = nearest(weights, 5)
    torch.testing.assert_close(kept, kept.T)
    assert ((kept > 0).sum(1) >= 5).all()
    assert (kept > 0).sum() < weights.numel() / 2
    assert torch.equal(kept.diagonal(), weights.diagonal())


def test_the_running_median_moves_slowly():
    loss, scans = AffinityLoss(), torch.arange(40) % 2
    predictions = vectors(40, 3, seed=1).softmax(1)
    loss(vectors(), predictions, scans)
    first = loss.scale.clone()
    loss(vectors() * 10, predictions, scans)
    assert loss.scale == pytest.approx(float(0.99 * first + 0.01 * 100 * first), rel=1e-3)


def test_a_sample_is_even_over_the_classes():
    torch.manual_seed(0)
    classes = torch.tensor([0] * 900 + [1] * 80 + [2] * 20)
    chosen = balanced_sample(classes, 150)
    assert torch.bincount(classes[chosen]).tolist() == [50, 50, 20]
    assert len(chosen.unique()) == len(chosen)
    assert len(balanced_sample(classes[:0], 10)) == 0
