"""Levels of speed: what each changes, and that explicit wishes count before them."""

from __future__ import annotations

import pytest

from medseg.config import InferenceConfig, make_segment_config
from medseg.config.speed import SPEEDS
from medseg.errors import ConfigError


def test_balanced_is_the_model_as_it_was_validated():
    own = InferenceConfig(overlap=0.4, flips=True, precision="bf16")
    assert make_segment_config().inference(own) == own
    assert make_segment_config(speed="balanced").inference(own) == own


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.75])
def test_levels_are_ordered_by_their_work(overlap):
    """Whatever the model's own: accurate would have seen less of a model that overlaps more than it."""
    own = InferenceConfig(overlap=overlap)
    fast, balanced, accurate = (make_segment_config(speed=name).inference(own) for name in SPEEDS)
    assert fast.overlap <= balanced.overlap <= accurate.overlap
    assert fast.overlap < accurate.overlap
    assert (fast.flips, accurate.flips, accurate.precision) == (False, True, "float32")


def test_what_is_said_explicitly_counts():
    config = make_segment_config(speed="accurate", flips=False, overlap=0.1)
    chosen = config.inference(InferenceConfig())
    assert (chosen.flips, chosen.overlap, chosen.precision) == (False, 0.1, "float32")


@pytest.mark.parametrize("name", SPEEDS)
def test_every_level_is_a_sound_configuration(name):
    InferenceConfig.model_validate(SPEEDS[name])


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigError, match="speed"):
        make_segment_config(speed="faster")
