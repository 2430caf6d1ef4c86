import numpy as np
import pytest

from medseg.quality.metrics import State, StructureScore
from medseg.quality.summary import mean_over_targets, summarise


def row(case, target, dice, state=State.SCORED):
    hd95 = None if dice is None else 10 * (1 - dice)
    return StructureScore(case, target, state, dice, dice, hd95, dice, 2.0, 1.5)


def test_statistics_are_numpys():
    values = [0.9, 0.8, 0.7, 0.2]
    (summary,) = summarise(row(str(i), "organ", value) for i, value in enumerate(values))
    assert summary.dice.mean == pytest.approx(np.mean(values))
    assert summary.dice.sd == pytest.approx(np.std(values, ddof=1))
    assert summary.dice.median == pytest.approx(0.75)
    assert (summary.dice.p5, summary.dice.p95) == pytest.approx(tuple(np.percentile(values, [5, 95])))
    assert summary.volume_error_ml.mean == pytest.approx(0.5)


def test_a_missed_organ_lowers_the_means_and_an_absent_one_does_not():
    found = [row("a", "organ", 0.9), row("b", "organ", 0.8)]
    missed = [*found, row("c", "organ", 0.0, State.MISSED)]
    absent = [*found, row("c", "organ", None, State.BOTH_EMPTY)]
    assert summarise(missed)[0].dice.mean < summarise(found)[0].dice.mean
    assert summarise(missed)[0].hd95_mm.mean > summarise(found)[0].hd95_mm.mean
    assert summarise(absent)[0].dice == summarise(found)[0].dice
    assert summarise(absent)[0].states == {"scored": 2, "missed": 0, "spurious": 0, "both_empty": 1}
    assert summarise(absent)[0].cases == 2


def test_every_target_weighs_the_same():
    rows = [
        row("a", "organ", 1.0),
        row("b", "organ", 1.0),
        row("c", "organ", 1.0),
        row("a", "tumour", 0.0, State.MISSED),
    ]
    assert mean_over_targets(summarise(rows), "dice") == pytest.approx(0.5)


def test_a_target_that_never_occurs_is_in_no_mean():
    rows = [row("a", "organ", 0.8), row("a", "tumour", None, State.BOTH_EMPTY)]
    summaries = summarise(rows)
    assert summaries[1].dice is None
    assert mean_over_targets(summaries, "dice") == pytest.approx(0.8)
    assert mean_over_targets(summaries[1:], "dice") is None


def test_a_single_case_has_no_spread():
    assert summarise([row("a", "organ", 0.8)])[0].dice.sd == 0.0
