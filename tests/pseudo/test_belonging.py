"""What teachers can't be right about is named, with the reason."""

from __future__ import annotations

import pytest

from medseg.pseudo.belonging import expect, strange_prediction

EXPECTED = expect([{"organ": 10.0, "tumour": 0.0}, {"organ": 14.0, "tumour": 1.0}])


def test_what_people_drew_is_expected():
    assert EXPECTED.always == ("organ",)
    assert EXPECTED.volumes_ml == {"organ": (10.0, 14.0), "tumour": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("volumes", "agreement", "reason"),
    [
        ({"organ": 12.0}, 0.9, ""),
        ({"organ": 3.0, "tumour": 50.0}, None, ""),
        ({"organ": 0.0, "tumour": 1.0}, 0.9, "nothing was found of organ"),
        ({"organ": 2.0}, 0.9, "2.0 ml of organ were found, people drew 10.0 ml to 14.0 ml: another organ?"),
        ({"organ": 60.0}, 0.9, "60.0 ml of organ"),
        ({"organ": 5600.0}, 0.9, "5600 ml of organ"),
        ({"organ": 12.0}, 0.3, "the teachers disagree"),
    ],
)
def test_predictions_that_can_not_be_right_are_named(volumes, agreement, reason):
    found = strange_prediction(volumes, agreement, EXPECTED)
    assert found.startswith(reason) if reason else not found
