import numpy as np

from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.postprocessing import apply, choose_rules
from medseg.postprocessing.choice import _try_all
from medseg.quality.metrics import evaluate_case
from medseg.rules import PostprocessingRules, StructureRule
from medseg.volume import Mask

LABELS = LabelMap.parse({"organ": 1, "tumour": 2})
GRID = Grid((20, 12, 12), np.diag([2.0, 2.0, 2.0, 1.0]))


def mask(*parts):
    array = np.zeros(GRID.shape, dtype=np.uint8)
    for place, value in parts:
        array[place] = value
    return Mask(array, GRID)


ORGAN = (np.s_[2:10, 2:10, 2:10], 1)
ISLAND = (np.s_[14:17, 3:6, 3:6], 1)
LESIONS = ((np.s_[4:6, 4:6, 4:6], 2), (np.s_[8:9, 8:9, 8:9], 2))


def test_an_island_is_removed_and_the_reason_told():
    choice = choose_rules([(mask(ORGAN, ISLAND), mask(ORGAN)), (mask(ORGAN), mask(ORGAN))], LABELS)
    assert choice.rules.structures == {"organ": StructureRule(keep_largest=True)}
    kept = [trial for trial in choice.trials if trial.kept]
    assert [(t.structure, t.rule) for t in kept] == [("organ", StructureRule(keep_largest=True))]
    assert kept[0].after == 1.0 > kept[0].before
    assert kept[0].describe() == "organ, largest component: mean Dice 0.9872 -> 1.0000, kept"


def test_what_is_rightly_in_two_pieces_stays_in_two_pieces():
    truth = mask(ORGAN, *LESIONS)
    choice = choose_rules([(truth, truth), (mask(ORGAN, ISLAND, *LESIONS), mask(ORGAN, ISLAND, *LESIONS))], LABELS)
    assert choice.rules.structures == {}
    assert all(not trial.kept for trial in choice.trials)
    assert any(trial.fallen == ("tumour",) for trial in choice.trials)


def test_a_rule_that_costs_another_target_is_refused():
    """Keeping the largest organ piece removes an island that holds a real tumour region."""
    labels = LabelMap.parse({"organ_with_tumour": [1, 2], "tumour": [2]})
    tumour = (np.s_[14:15, 3:4, 3:4], 2)
    pair = mask(ORGAN, ISLAND, tumour), mask(ORGAN, tumour)
    choice = choose_rules([pair], labels)
    tried = {(t.structure, t.rule): t for t in choice.trials}
    trial = tried["organ_with_tumour", StructureRule(keep_largest=True)]
    assert trial.fallen == ("tumour",)
    assert not trial.kept
    assert "organ_with_tumour" not in choice.rules.structures


def test_false_findings_in_healthy_cases_count():
    speck = (np.s_[5, 5, 5], 2)
    healthy, sick = (mask(ORGAN, speck), mask(ORGAN)), (mask(ORGAN, LESIONS[0]), mask(ORGAN, LESIONS[0]))
    choice = choose_rules([sick, healthy], LABELS)
    assert choice.rules.structures["tumour"].min_ml > GRID.voxel_ml
    rule = choice.rules
    assert not (apply(healthy[0].array, GRID, rule, LABELS) == 2).any()
    assert (apply(sick[0].array, GRID, rule, LABELS) == 2).sum() == 8


def test_holes_are_filled_when_that_helps():
    hole = (np.s_[5:7, 5:7, 5:7], 0)
    choice = choose_rules([(mask(ORGAN, hole), mask(ORGAN))], LABELS)
    assert choice.rules.structures == {"organ": StructureRule(fill_holes=True)}


def test_rules_of_several_structures_are_combined():
    prediction = mask(ORGAN, ISLAND, LESIONS[0], (np.s_[18, 10, 10], 2))
    choice = choose_rules([(prediction, mask(ORGAN, LESIONS[0]))], LABELS)
    assert set(choice.rules.structures) == {"organ", "tumour"}


def test_ignored_voxels_decide_nothing():
    labels = LabelMap.parse({"organ": 1, "tumour": 2, "ignore": 9})
    unlabelled = (ISLAND[0], 9)
    assert choose_rules([(mask(ORGAN, ISLAND), mask(ORGAN, unlabelled))], labels).rules.structures == {}


def test_scores_of_the_trials_are_those_of_the_whole_scan():
    """Only a box is looked at again; the numbers must be those of cleaning and measuring everything."""
    rng = np.random.default_rng(5)
    pair = tuple(Mask(rng.choice([0, 1, 2], GRID.shape, p=[0.7, 0.2, 0.1]).astype(np.uint8), GRID) for _ in range(2))
    from medseg.postprocessing.choice import _candidates

    candidates = _candidates([pair], LABELS)
    for (structure, rule), scores in zip(candidates, _try_all(pair, candidates, LABELS)[1:], strict=True):
        rules = PostprocessingRules(structures={structure.name: rule})
        whole = Mask(apply(pair[0].array, GRID, rules, LABELS), GRID)
        expected = [score.dice for score in evaluate_case(whole, pair[1], LABELS)]
        np.testing.assert_allclose(scores, expected, atol=1e-12)


def test_no_cases_with_anything_in_them_give_no_rules():
    assert choose_rules([(mask(), mask())], LABELS).rules.structures == {}
