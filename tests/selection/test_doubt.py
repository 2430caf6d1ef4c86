"""Doubt of a scan against sorting every voxel's entropy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.errors import ReasonCode, ScanError
from medseg.labels import LabelMap
from medseg.networks.model import Model
from medseg.outputs import NetworkOutput
from medseg.selection.doubt import MEMBER, TOP, DoubtMeter, Observer

LABELS = LabelMap.parse({"liver": 1, "tumour": 2})
REGIONS = LabelMap.parse({"background": 0, "whole": [1, 2], "core": 2})
CPU = torch.device("cpu")


def slow_doubt(logits, labels):
    """Sort the entropies of each target's region and average the largest tenth."""
    values = logits.double()
    probabilities = values.sigmoid() if labels.regions else values.softmax(0)
    found = {}
    for number, name in enumerate(labels.targets):
        p = probabilities[number if labels.regions else number + 1]
        if labels.regions:
            entropy = -(p * p.log2() + (1 - p) * (1 - p).log2())
        else:
            entropy = -(probabilities * probabilities.log()).sum(0) / np.log(len(logits))
        inside = np.sort(entropy[p >= MEMBER].numpy())[::-1]
        found[name] = float(inside[: max(1, round(TOP * len(inside)))].mean()) if len(inside) else None
    return found


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["classes", "regions"])
def test_it_is_the_mean_of_the_most_doubtful_tenth_however_the_slabs_are_cut(labels):
    torch.manual_seed(0)
    logits = 3 * torch.randn(labels.outputs, 20, 10, 8)
    expected = slow_doubt(logits, labels)
    for cuts in ([20], [3, 17], [1] * 20):
        meter = DoubtMeter(labels)
        for slab in logits.split(cuts, dim=1):
            meter.add(slab)
        assert meter.doubt() == pytest.approx(expected, abs=1e-3)


def test_structures_count_alike_whatever_their_size(model, volume_of):
    # A sure big liver, a small doubtful tumour: were voxels to count, the doubt would vanish.
    scan = np.full((8, 8, 8), -30.0)
    scan[:6] = 3.0  # liver: sure of it, and p(tumour) is 0.007
    calm = Observer(model, CPU).look(volume_of(scan))
    scan[0, 0, 0] = 8.0  # logits 0, 8, 8
    doubtful = Observer(model, CPU).look(volume_of(scan))
    assert calm.doubt["tumour"] is None
    assert calm.found == {"liver"}
    assert doubtful.doubt["tumour"] == pytest.approx(np.log(2) / np.log(3), abs=0.01)
    assert doubtful.score > 2 * calm.score


def test_a_scan_is_described_by_its_mean_features(model, volume_of):
    scan = np.random.default_rng(0).normal(size=(16, 8, 8)).astype(np.float32)
    (features,) = Observer(model, CPU).look(volume_of(scan)).parts
    seen = scan[::2, ::2, ::2]
    np.testing.assert_allclose(features, [seen.mean(), (seen**2).mean()], atol=1e-5)


def test_every_window_counts_once_and_looking_twice_is_the_same(model, volume_of):
    scan = np.random.default_rng(0).normal(size=(24, 8, 8)).astype(np.float32)  # three windows: a pair and one
    first, again = (Observer(model, CPU).look(volume_of(scan)) for _ in range(2))
    seen = scan[::2, ::2, ::2]
    np.testing.assert_allclose(first.parts[0], [seen.mean(), (seen**2).mean()], atol=1e-5)
    assert first.score == again.score
    assert np.array_equal(first.parts[0], again.parts[0])


def test_nothing_of_a_scan_that_ended_within_a_window_is_in_the_next_ones_description(model, volume_of):
    class FullAtFirst(torch.nn.Module):
        calls = 0

        def forward(self, image):
            self.calls += 1
            if self.calls == 1:
                raise MemoryError
            return model.networks[0](image)

    observer = Observer(replace(model, networks=(model.networks[0], FullAtFirst())), CPU)
    with pytest.raises(MemoryError):
        observer.look(volume_of(np.full((8, 8, 8), 9.0)))
    (features,) = observer.look(volume_of(np.ones((8, 8, 8)))).parts
    np.testing.assert_allclose(features, [1, 1])


def test_networks_that_show_no_features_leave_the_appearance(model, volume_of):
    class Mute(torch.nn.Module):
        def forward(self, image):
            return NetworkOutput(torch.cat([-image, image, image - 4], dim=1))

    view = Observer(Model((Mute(),), model.plan, LABELS), CPU).look(volume_of(np.ones((8, 8, 8))))
    assert len(view.parts) == 3


def test_nothing_found_is_no_doubt(model, volume_of):
    view = Observer(model, CPU).look(volume_of(np.full((8, 8, 8), -30.0)))
    assert (view.score, view.found, set(view.doubt.values())) == (0.0, frozenset(), {None})


def test_other_channels_are_refused(model, volume_of):
    two = volume_of(np.zeros((8, 8, 8)))
    two = type(two)(np.repeat(two.array, 2, axis=0), two.grid)
    with pytest.raises(ScanError, match="channel"):
        Observer(model, CPU).look(two)


def test_another_modality_is_refused(model, volume_of):
    scan = replace(volume_of(np.zeros((8, 8, 8))), modality="CT")
    with pytest.raises(ScanError) as caught:
        Observer(replace(model, modalities=("MR",)), CPU).look(scan)
    assert caught.value.code == ReasonCode.MODALITY_MISMATCH
    Observer(replace(model, modalities=("CT",)), CPU).look(scan)
