"""Expected Dice: bounded, monotone, finite, and honest about how well it ranks."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import nnls

from medseg.quality.calibration import (
    FEATURES,
    FEWEST_CASES,
    HeldOut,
    Observation,
    _fit_with,
    _logit,
    _parts,
    auroc,
    can_expect,
    case_features,
    expected_dice,
    fit_calibration,
    observe,
    rank,
    spearman,
)
from medseg.quality.metrics import State, StructureScore

from .results import VOLUMES, doubt, features, reference, structure


def observations(cases=40, noise=0.02, seed=0):
    """Cases whose Dice follows their first feature; the others are noise."""
    rng = np.random.default_rng(seed)
    found = []
    for case in range(cases):
        sure = rng.uniform(0.5, 1.0)
        dice = float(np.clip(sure - 0.05 + rng.normal(0, noise), 0, 1))
        found.append(Observation(str(case), (sure, sure - 0.1, *rng.normal(0, 1, len(FEATURES) - 2)), dice))
    return found


def test_it_is_monotone_in_every_feature_and_clipped():
    calibration = fit_calibration(observations())
    rng = np.random.default_rng(1)
    for _ in range(50):
        start = rng.normal(0, 2, len(FEATURES))
        for number in range(len(FEATURES)):
            steps = [start + step * np.eye(len(FEATURES))[number] for step in np.linspace(-1e6, 1e6, 9)]
            values = [expected_dice(step, calibration) for step in steps]
            assert all(0 <= value <= 1 for value in values)
            assert (np.diff(values) >= -1e-12).all()


def test_it_finds_what_the_dice_follows_and_says_how_well():
    calibration = fit_calibration(observations(60))
    assert calibration.ranking.spearman > 0.9
    assert calibration.ranking.auroc > 0.9
    assert calibration.ranking.error < 0.05
    good, bad = ((value, value - 0.1, 0, 0, 0, 0) for value in (0.95, 0.6))
    assert expected_dice(good, calibration) == pytest.approx(0.9, abs=0.06)
    assert expected_dice(bad, calibration) == pytest.approx(0.55, abs=0.1)


def test_noise_is_not_said_to_rank():
    rng = np.random.default_rng(3)
    blind = [
        Observation(str(case), tuple(rng.normal(0, 1, len(FEATURES))), float(rng.uniform(0.4, 1))) for case in range(80)
    ]
    assert abs(fit_calibration(blind).ranking.spearman) < 0.35


def test_features_that_point_the_wrong_way_get_no_weight():
    turned = [Observation(o.case, (-o.features[0], 0, 0, 0, 0, 0), o.dice) for o in observations()]
    assert fit_calibration(turned).weight == (0.0,) * len(FEATURES)


def test_the_fit_is_that_of_non_negative_least_squares():
    found = observations(50, noise=0.1, seed=5)
    x, dice = np.array([o.features for o in found]), np.array([o.dice for o in found])
    fit = _fit_with(x, dice, ridge=2.0)
    design = (x - x.mean(0)) / x.std(0)
    stacked = np.vstack([design, np.sqrt(2.0) * np.eye(x.shape[1])])
    wanted, _ = nnls(stacked, np.concatenate([_logit(dice) - _logit(dice).mean(), np.zeros(x.shape[1])]))
    assert fit.weight == pytest.approx(wanted, abs=1e-5)


def test_too_few_cases_are_not_fitted():
    assert fit_calibration(observations(FEWEST_CASES - 1)) is None
    assert fit_calibration(observations(FEWEST_CASES)).cases == FEWEST_CASES


def test_features_are_finite_on_odd_cases():
    known = reference()
    for found in (
        features(),
        features(**dict.fromkeys(VOLUMES)),
        features(liver=structure("liver", volume_ml=1e-9, components=10_000)),
        features().model_copy(update={"uncertainty": {}}),
        features().model_copy(update={"uncertainty": {"liver": doubt(None), "unknown": doubt(None)}}),
    ):
        values = case_features(found, known)
        assert len(values) == len(FEATURES)
        assert np.isfinite(values).all()


@pytest.mark.parametrize(
    "worse",
    [
        features().model_copy(update={"uncertainty": {name: doubt(0.5) for name in VOLUMES}}),
        features(liver=structure("liver", volume_ml=6000)),
        features(liver=structure("liver", components=9)),
        features(liver=None),
        features(tumour=None).model_copy(
            update={"uncertainty": {**features().uncertainty, "tumour": doubt(None, None, 8)}}
        ),
    ],
)
def test_a_worse_case_has_no_better_feature(worse):
    good, bad = case_features(features(), reference()), case_features(worse, reference())
    assert all(b <= g for g, b in zip(good, bad, strict=True))
    assert bad != good


def test_failures_teach_what_sound_scans_do_not():
    """Sound cases differ by how people draw alone; with degraded copies the fit finds what failing looks like."""
    rng = np.random.default_rng(7)

    def look(case: int, harm: float) -> Observation:
        dice = float(np.clip(0.85 - harm + rng.normal(0, 0.03), 0, 1))
        sure = 0.9 - 0.5 * harm + float(rng.normal(0, 0.02))
        return Observation(str(case), (sure, sure, 0.9, 0.0, 0.0, 0.0), dice, is_degraded=harm > 0)

    sound = [look(case, 0.0) for case in range(30)]
    degraded = [look(case, float(rng.uniform(0.01, 0.6))) for case in range(30)]
    alone, both = fit_calibration(sound), fit_calibration([*sound, *degraded])
    assert both.cases == alone.cases == 30
    assert both.ranking.cases == 60
    assert both.as_scanned.cases == 30
    assert both.ranking.spearman > 0.8
    assert both.ranking.auroc > 0.9
    assert abs(both.as_scanned.spearman) < 0.5
    failed = (0.6, 0.6, 0.9, 0.0, 0.0, 0.0)
    assert expected_dice(failed, both) < 0.5 < expected_dice(failed, alone)


def test_copies_of_a_case_are_left_out_together():
    """Each case has a Dice of its own that its features name but others' don't tell: copies would give it away."""
    rng = np.random.default_rng(0)
    found = []
    for case in range(30):
        named, dice = rng.normal(0, 1, len(FEATURES)), float(rng.uniform(0.3, 0.95))
        found += [Observation(str(case), tuple(named), dice) for _ in range(4)]
    assert abs(fit_calibration(found).ranking.spearman) < 0.4
    owners = np.repeat(np.arange(30), 4)
    for part in _parts(owners):
        assert not set(owners[part]) & set(owners[~part])


def test_a_calibration_on_other_features_is_not_used():
    calibration = fit_calibration(observations())
    assert can_expect(calibration)
    assert not can_expect(calibration.model_copy(update={"features": ("border_entropy", *FEATURES[1:])}))


def test_cases_without_a_dice_are_not_observed():
    absent = [StructureScore("a", "tumour", State.BOTH_EMPTY, None, None, None, None, 0, 0)]
    scored = [StructureScore("b", "liver", State.SCORED, 0.8, 0.7, 1.0, 1.0, 1, 1), *absent]
    (found,) = observe([HeldOut("a", features(), absent), HeldOut("b", features(), scored, True)], reference())
    assert (found.case, found.dice, found.is_degraded) == ("b", 0.8, True)


def test_ranks_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 50).astype(float), rng.integers(0, 6, 50).astype(float)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    positive = b > 3
    wanted = stats.mannwhitneyu(a[positive], a[~positive]).statistic / (positive.sum() * (~positive).sum())
    assert auroc(a, positive) == pytest.approx(wanted)
    assert spearman(np.ones(5), np.arange(5.0)) is None
    assert auroc(a, np.zeros(50, bool)) is None
    assert rank(b, b, threshold=3.0).auroc == 1.0
