"""Temperature, calibration error and thresholds against what is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.config import PseudoLabelConfig
from medseg.labels import LabelMap
from medseg.pseudo.calibration import (
    BLIND_THRESHOLD,
    Sample,
    Verdicts,
    calibrate,
    calibration_error,
    choose_threshold,
    fit_temperature,
)
from medseg.pseudo.probability import (
    confidence,
    decide_likely,
    negative_log_likelihood,
    probabilities,
    true_decisions,
    uncertainty,
)

LABELS = LabelMap.parse({"organ": 3, "tumour": 7})
REGIONS = LabelMap.parse({"whole": [1, 2], "tumour": [2]})


def drawn(heat: float, n: int = 20_000, seed: int = 0) -> Sample:
    """Truth drawn from softmax(z), shown with the logits z * heat: their right temperature is `heat`."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (3, n)).astype(np.float32))
    edges = torch.softmax(logits, 0).cumsum(0).numpy()
    truth = (rng.random(n) > edges).sum(0).clip(max=2).astype(np.uint8)
    return Sample(logits * heat, truth, np.ones(n))


@pytest.mark.parametrize("heat", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_recovered(heat):
    assert fit_temperature([drawn(heat), drawn(heat, seed=1)], LABELS) == pytest.approx(heat, rel=0.03)


def test_a_known_temperature_of_regions_is_recovered():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 40_000))
    whole = rng.random(40_000) < 1 / (1 + np.exp(-logits[0]))
    # the tumour lies within the whole: only where it does are labels possible, so the second logit is tied to it
    truth = whole.astype(np.uint8)
    shown = np.stack([logits[0], np.full(40_000, -30.0)]) * 1.7
    sample = Sample(torch.from_numpy(shown.astype(np.float32)), truth, np.ones(40_000))
    assert fit_temperature([sample], REGIONS) == pytest.approx(1.7, rel=0.05)


def test_calibration_lowers_the_error_of_overconfident_teachers():
    found = calibrate([drawn(3.0)], LABELS, PseudoLabelConfig())
    assert found.ece_before > 0.1
    assert found.ece_after < 0.02
    assert found.cases == 1
    plain = calibrate([drawn(3.0)], LABELS, PseudoLabelConfig(calibrate=False))
    assert plain.temperature == 1.0


def test_scans_without_anything_to_look_at_change_nothing():
    nothing = Sample(torch.zeros(3, 0), np.zeros(0, np.uint8), np.ones(0))
    assert calibrate([drawn(3.0), nothing], LABELS, PseudoLabelConfig()) == calibrate(
        [drawn(3.0)], LABELS, PseudoLabelConfig()
    )
    assert calibrate([nothing], LABELS, PseudoLabelConfig()).cases == 0


def test_calibration_error_by_hand():
    sure = np.array([0.9, 0.9, 0.9, 0.9, 0.55, 0.55])
    right = np.array([True, True, False, False, True, True])
    verdicts = Verdicts(np.zeros(6, np.uint8), sure, right, np.ones(6))
    assert calibration_error(verdicts) == pytest.approx((4 * 0.4 + 2 * 0.45) / 6)


def test_without_held_out_scans_nothing_is_claimed():
    found = calibrate([], LABELS, PseudoLabelConfig())
    assert found.temperature == 1.0
    assert found.thresholds == (BLIND_THRESHOLD,) * 3
    assert found.ece_after is None


def verdicts_of(sure, right):
    sure = np.asarray(sure, dtype=float)
    return Verdicts(np.zeros(len(sure), np.uint8), sure, np.asarray(right), np.ones(len(sure)))


def test_the_threshold_is_the_smallest_that_is_precise_enough():
    """Right above 0.8, a coin below."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 200_000)
    right = (sure > 0.8) | (rng.random(200_000) < 0.5)
    found = choose_threshold(verdicts_of(sure, right), PseudoLabelConfig(precision=0.95, keep=0.0))
    above = sure >= found
    assert right[above].mean() >= 0.95
    assert right[sure >= found - 0.006].mean() < 0.95


def test_a_class_that_is_never_sure_does_not_starve():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.4, 0.8, 10_000)
    found = choose_threshold(verdicts_of(sure, rng.random(10_000) < 0.5), PseudoLabelConfig())
    assert (sure >= found).mean() == pytest.approx(0.5, abs=0.01)
    low = choose_threshold(verdicts_of(sure * 0.5, np.zeros(10_000, bool)), PseudoLabelConfig())
    assert low == 0.6, "bounded below even so"


def test_a_decision_never_made_is_not_trusted():
    assert choose_threshold(verdicts_of([], []), PseudoLabelConfig(thresholds=(0.6, 0.9))) == 0.9


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    precisions=st.tuples(st.floats(0.5, 1), st.floats(0.5, 1)).map(sorted),
    keeps=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    lows=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)).map(sorted),
)
def test_thresholds_are_monotone(seed, precisions, keeps, lows):
    """More precision, or a higher floor, never lowers a threshold; keeping more never raises it."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.3, 1, 300)
    verdicts = verdicts_of(sure, rng.random(300) < sure)

    def chosen(precision=0.9, keep=0.5, low=0.6):
        config = PseudoLabelConfig(precision=precision, keep=keep, thresholds=(low, 0.95))
        return choose_threshold(verdicts, config)

    assert chosen(precision=precisions[0]) <= chosen(precision=precisions[1]) + 1e-12
    assert chosen(keep=keeps[0]) >= chosen(keep=keeps[1]) - 1e-12
    assert chosen(low=lows[0], precision=precisions[0]) <= chosen(low=lows[1], precision=precisions[0]) + 1e-12


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_probabilities_and_their_entropy(labels):
    logits = torch.randn(labels.outputs, 500)
    likely = probabilities(logits, labels, 1.0)
    decided = decide_likely(likely, labels)
    sure, doubt = confidence(likely, labels), uncertainty(likely, labels)
    assert float(doubt.min()) >= 0
    assert float(doubt.max()) <= 1 + 1e-6
    assert float(sure.min()) >= (0.5 if labels.regions else 1 / 3)
    undecided = torch.zeros(labels.outputs, 1)
    assert float(uncertainty(probabilities(undecided, labels), labels)) == pytest.approx(1)
    if not labels.regions:
        assert torch.equal(decided.long(), likely.argmax(0))


def test_true_decisions_of_regions_are_the_region_painted_last():
    indices = np.array([0, 1, 2, 255], np.uint8)  # background, label 1 (whole alone), label 2 (tumour within whole)
    np.testing.assert_array_equal(true_decisions(indices, REGIONS), [0, 1, 2, 255])
    np.testing.assert_array_equal(true_decisions(indices, LABELS), indices)
    logits = torch.tensor([[9.0, 9.0, -9.0], [9.0, -9.0, -9.0]])
    truth = torch.tensor([2, 1, 0], dtype=torch.uint8)
    assert float(negative_log_likelihood(logits, truth, REGIONS).max()) < 1e-3
    assert float(negative_log_likelihood(-logits, truth, REGIONS).min()) > 1
