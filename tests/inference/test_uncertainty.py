"""A network's doubt, against closed forms and numpy."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from medseg.inference import uncertainty
from medseg.inference.restore import decide
from medseg.inference.uncertainty import AgreementMeter, UncertaintyMeter, borders
from medseg.labels import LabelMap


@pytest.fixture(autouse=True)
def _whole_background(monkeypatch):
    """Look at every voxel of the background, so that sums can be compared."""
    monkeypatch.setattr(uncertainty, "BACKGROUND_STEP", 1)


CLASSES = LabelMap.parse({"a": 1, "b": 2, "c": 3})
REGIONS = LabelMap.parse({"whole": [1, 2], "core": 2})


def logits_of(outputs, seed=0, shape=(9, 8, 7)):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn((outputs, *shape), generator=generator)


def measure(labels, *slabs, voxel_ml=0.5):
    meter = UncertaintyMeter(labels, voxel_ml)
    for slab in slabs:
        meter.add(slab, decide(slab, labels))
    return meter.finish()


def test_classes_are_measured_as_scipy_does():
    logits = logits_of(4)
    confidence, found = measure(CLASSES, logits)
    p = np.exp(logits.double().numpy())
    p /= p.sum(0)
    winner = p.argmax(0)
    entropy = stats.entropy(p, axis=0) / math.log(4)
    assert confidence == pytest.approx(p.max(0)[winner > 0].mean(), rel=1e-5)
    for number, name in enumerate(CLASSES.targets, start=1):
        inside = winner == number
        assert found[name].confidence == pytest.approx(p[number][inside].mean(), abs=2e-6)
        assert found[name].entropy == pytest.approx(entropy[inside].mean(), abs=2e-6)
        soft = 2 * p[number][inside].sum() / (inside.sum() + p[number].sum())
        assert found[name].soft_dice == pytest.approx(soft, abs=2e-6)
        assert found[name].soft_ml == pytest.approx(p[number].sum() * 0.5, abs=1e-3)
        assert found[name].agreement is None


def test_regions_overlap():
    logits = logits_of(2, seed=1)
    _, found = measure(REGIONS, logits)
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    for number, name in enumerate(REGIONS.targets):
        inside = p[number] > 0.5
        # Voxels outside every region are counted, too, but not those that only another region has: none here
        assert found[name].confidence == pytest.approx(p[number][inside].mean(), abs=2e-6)
        entropy = stats.entropy(np.stack([p[number], 1 - p[number]]), base=2, axis=0)
        assert found[name].entropy == pytest.approx(entropy[inside].mean(), abs=2e-6)
        soft = 2 * p[number][inside].sum() / (inside.sum() + p[number].sum())
        assert found[name].soft_dice == pytest.approx(soft, abs=2e-6)


def test_certainty_and_doubt_are_the_ends_of_the_scale():
    sure = torch.full((4, 4, 4, 4), -50.0)
    sure[0] = 50
    sure[:, :2] = -50.0
    sure[1, :2] = 50
    confidence, found = measure(CLASSES, sure)
    assert (confidence, found["a"].soft_dice, found["a"].entropy, found["a"].border_entropy) == (1, 1, 0, 0)
    assert found["b"] == found["a"].model_copy(
        update={"confidence": None, "entropy": None, "border_entropy": None, "soft_dice": None, "soft_ml": 0}
    )
    torn = torch.zeros(4, 4, 4, 4)
    torn[1] = 1e-6
    assert measure(CLASSES, torn)[1]["a"].entropy == pytest.approx(1, abs=1e-5)


def test_nothing_found_is_nothing_to_be_unsure_about():
    nothing = torch.zeros(4, 3, 3, 3)
    nothing[0] = 20
    confidence, found = measure(CLASSES, nothing)
    assert confidence == 1
    assert all(doubt.soft_dice is None for doubt in found.values())
    assert UncertaintyMeter(CLASSES, 1.0).finish() == (1.0, {})


def test_slabs_add_up():
    logits = logits_of(4, seed=3)
    whole, cut = measure(CLASSES, logits)[1], measure(CLASSES, logits[:, :4], logits[:, 4:])[1]
    for name in CLASSES.targets:
        assert cut[name].soft_dice == pytest.approx(whole[name].soft_dice, abs=2e-6)
        assert cut[name].entropy == pytest.approx(whole[name].entropy, abs=2e-6)


def test_a_sampled_background_gives_almost_the_same(monkeypatch):
    logits = logits_of(4, seed=4, shape=(40, 40, 40))
    logits[0] += 4
    exact = measure(CLASSES, logits)[1]
    monkeypatch.setattr(uncertainty, "BLOCK", 40_000)
    sampled = measure(CLASSES, logits)[1]
    for name in CLASSES.targets:
        assert sampled[name].confidence == pytest.approx(exact[name].confidence, abs=2e-6)
        assert sampled[name].soft_ml == pytest.approx(exact[name].soft_ml, rel=0.05)


def test_borders_are_where_neighbours_differ():
    decided = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (7, 1, 9)).astype(np.uint8))
    footprint = ndimage.generate_binary_structure(3, 1)
    low = ndimage.minimum_filter(decided.numpy(), footprint=footprint, mode="nearest")
    high = ndimage.maximum_filter(decided.numpy(), footprint=footprint, mode="nearest")
    assert np.array_equal(borders(decided).numpy(), low != high)
    assert not borders(torch.ones(4, 4, 4, dtype=torch.uint8)).any()


def test_agreement_is_the_dice_with_the_average():
    rng = np.random.default_rng(0)
    passes = [torch.from_numpy(rng.integers(0, 3, (5, 6, 7)).astype(np.uint8)) for _ in range(3)]
    average = torch.from_numpy(rng.integers(0, 3, (5, 6, 7)).astype(np.uint8))
    agreement = AgreementMeter(CLASSES)
    agreement.add(passes, average)
    found = agreement.finish()
    for number, name in ((1, "a"), (2, "b")):
        common = sum(float(((single == number) & (average == number)).sum()) for single in passes)
        sizes = sum(float((single == number).sum() + (average == number).sum()) for single in passes)
        assert found[name] == pytest.approx(2 * common / sizes, abs=1e-6)
    assert found["c"] is None
    assert AgreementMeter(CLASSES).finish() == dict.fromkeys(CLASSES.targets)
    same = AgreementMeter(CLASSES)
    same.add([average, average], average)
    assert same.finish()["a"] == 1
