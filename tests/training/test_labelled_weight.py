from __future__ import annotations

from medseg.training.labelled_weight import (
    FALLBACK,
    Choice,
    Trial,
    choose_weight,
    enough_patients,
    load_choice,
    save_choice,
    without_trials,
)
from medseg.volume import Case


def trial(weight, *dice):
    return Trial(weight=weight, dice={f"case_{n}": value for n, value in enumerate(dice)})


def test_scans_that_help_are_used():
    chosen = choose_weight([trial(1.0, 0.80, 0.70, 0.75), trial(0.5, 0.85, 0.76, 0.79)])
    assert chosen.weight == 0.5
    assert "best out-of-fold Dice, 0.8000, over 3 labelled cases" in chosen.reason


def test_scans_that_do_not_help_are_left_out():
    chosen = choose_weight([trial(1.0, 0.80, 0.70, 0.75), trial(0.5, 0.85, 0.60, 0.81)])
    assert chosen.weight == 1.0
    assert "within a standard error" in chosen.reason


def test_of_equals_the_most_supervised_is_taken():
    trials = [trial(1.0, 0.60, 0.62, 0.58), trial(0.8, 0.80, 0.83, 0.79), trial(0.3, 0.81, 0.82, 0.80)]
    assert choose_weight(trials).weight == 0.8


def test_harmful_scans_lose():
    assert choose_weight([trial(1.0, 0.8, 0.8), trial(0.8, 0.7, 0.7), trial(0.3, 0.2, 0.1)]).weight == 1.0


def test_patients_are_counted_not_cases():
    cases = [Case(f"case_{n}", (), patient=f"patient_{n // 2}") for n in range(10)]
    assert [enough_patients(cases[:n]) for n in (2, 6, 7, 10)] == [False, False, True, True]
    few = without_trials(cases[:2], pseudo_labels=False)
    assert few.weight == FALLBACK
    assert "too few patients have labelled cases to cross-validate: 1, and 4 are needed" in few.reason
    assert "can't judge pseudo-labels" in without_trials(cases, pseudo_labels=True).reason


def test_a_choice_is_kept_for_its_own_settings_alone(tmp_path):
    path = tmp_path / "choice.json"
    choice = Choice(weight=0.8, reason="why", trials=(trial(0.8, 0.5),), settings="abc")
    save_choice(choice, path)
    assert load_choice(path, "abc") == choice
    assert load_choice(path, "other") is None
    for damaged in (b"{", b"\xff\xfe"):
        path.write_bytes(damaged)
        assert load_choice(path, "abc") is None
