"""Which scans are chosen, in which order, and that nothing but the seed is drawn from."""

import numpy as np
import pytest

from medseg.errors import ConfigError
from medseg.selection.doubt import View
from medseg.selection.strategies import STRATEGIES, Candidates, choose, strategy_named


def view_of(doubt, found=("liver",)):
    return View({"liver": doubt}, frozenset(found), ())


def candidates_of(doubts, points=None, covered=(), learnt=10_000):
    points = np.array(points if points is not None else [[float(i)] for i in range(len(doubts))])
    return Candidates(points, np.reshape(covered, (-1, points.shape[1])), tuple(map(view_of, doubts)), learnt)


def chosen_of(pool, count, strategy="uncertainty-diversity", seed=0):
    return choose(pool, count, strategy, np.random.default_rng(seed))


def rows(choices):
    return [choice.index for choice in choices]


def test_doubtful_scans_make_the_pool_and_diversity_the_order():
    doubts = [0.9, 0.8, 0.7, 0.6, 0.1, 0.05]
    points = [[0.0], [0.1], [5.0], [0.2], [99.0], [77.0]]  # the far ones are not doubted
    chosen = chosen_of(candidates_of(doubts, points), 1)
    assert rows(chosen) == [0]
    chosen = choose(
        candidates_of(doubts, points, covered=[[0.0]]), 1, "uncertainty-diversity", np.random.default_rng(0)
    )
    assert rows(chosen) == [2]
    assert chosen[0].score == 0.7
    assert (
        chosen[0].why == "doubt 0.70 of 1, most about liver; 5.00 away from the nearest scan that is labelled or above"
    )


def test_noise_is_large_with_few_labels_and_gone_with_many():
    doubts = list(np.linspace(0.2, 0.9, 30))
    best = set(range(21, 30))  # the pool of three without noise
    early = [
        choose(candidates_of(doubts, learnt=0), 3, "uncertainty-diversity", np.random.default_rng(s)) for s in range(20)
    ]
    late = [chosen_of(candidates_of(doubts), 3, seed=seed) for seed in range(20)]
    assert all(set(rows(chosen)) <= best for chosen in late)
    assert any(not set(rows(chosen)) <= best for chosen in early)


def test_without_a_model_scans_are_spread_out():
    spread = Candidates(np.array([[0.0], [1.0], [9.0], [5.0]]), np.zeros((0, 1)))
    chosen = chosen_of(spread, 3)
    assert rows(chosen) == [1, 2, 3]  # the middle one, then the farthest each time
    assert [choice.score for choice in chosen] == [None, 8.0, 4.0]
    assert chosen[0].why == "in the middle of all scans"


def test_random_is_a_permutation_and_every_scan_as_likely():
    first = [chosen_of(candidates_of([0.5] * 4), 1, "random", seed)[0].index for seed in range(400)]
    assert min(np.bincount(first, minlength=4)) > 70
    everything = chosen_of(candidates_of([0.5] * 4), 9, "random")
    assert sorted(rows(everything)) == [0, 1, 2, 3]


def test_foreground_random_draws_structures_first_and_empty_scans_last():
    views = (*[view_of(0.1, ["liver"])] * 8, view_of(0.1, ["liver", "tumour"]), view_of(0.1, []))
    pool = Candidates(np.zeros((10, 1)), np.zeros((0, 1)), views)
    first = [chosen_of(pool, 1, "foreground-random", seed)[0].index for seed in range(300)]
    assert first.count(8) > 120  # half of the draws are for the tumour; one in ten without an eye to it
    assert 9 not in first
    everything = chosen_of(pool, 10, "foreground-random")
    assert rows(everything)[-1] == 9
    assert sorted(rows(everything)) == list(range(10))
    assert "finds nothing" in everything[-1].why


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_chooses_the_same_and_too_many_are_all(strategy):
    pool = candidates_of([0.5, 0.5, 0.5, 0.2])
    chosen = [chosen_of(pool, 9, strategy, 4) for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert sorted(rows(chosen[0])) == [0, 1, 2, 3]


def test_equal_scans_are_taken_in_their_order():
    pool = Candidates(np.zeros((4, 2)), np.zeros((0, 2)))
    assert rows(chosen_of(pool, 4)) == [0, 1, 2, 3]


def test_foreground_needs_a_model_and_unknown_words_are_named():
    with pytest.raises(ConfigError, match="give --model"):
        chosen_of(Candidates(np.zeros((2, 1)), np.zeros((0, 1))), 1, "foreground-random")
    with pytest.raises(ConfigError, match="'best'; there are uncertainty-diversity, random"):
        strategy_named("best")
