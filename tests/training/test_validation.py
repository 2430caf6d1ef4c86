from __future__ import annotations

import pickle

import numpy as np
import pytest

from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.measures.features import CaseFeatures
from medseg.postprocessing import choose_rules
from medseg.training.held_out import MaskPairs
from medseg.training.validation import Comparison
from medseg.volume import Mask

GRID = Grid((200, 180, 160), np.diag([0.8, 0.8, 1.5, 1.0]))


def drawn(value: int, dtype: type = np.uint8, specks: int = 0) -> Mask:
    array = np.zeros(GRID.shape, dtype, order="F")
    array[50:120, 40:90, 30:80] = value
    array[: 2 * specks : 2, 0, 0] = value
    return Mask(array, GRID)


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 2), (np.uint16, 700)])
def test_masks_wait_in_little_memory_and_come_back_as_they_were(dtype, value):
    prediction, truth = drawn(value, dtype, specks=3), drawn(value, dtype)
    comparison = Comparison.of("case", prediction, truth, CaseFeatures(channels=(), structures={}))
    assert len(pickle.dumps(comparison)) < prediction.array.nbytes / 50
    for kept, mask in zip(comparison.masks, (prediction, truth), strict=True):
        assert kept.array.dtype == mask.array.dtype
        np.testing.assert_array_equal(kept.array, mask.array)
        assert kept.grid == mask.grid


def test_the_clean_up_is_chosen_on_masks_that_are_unpacked_one_after_the_other():
    labels = LabelMap.parse({"liver": 2})
    pairs = [(drawn(2, specks=n), drawn(2)) for n in (1, 4)]
    comparisons = [
        Comparison.of(f"case_{n}", *pair, CaseFeatures(channels=(), structures={})) for n, pair in enumerate(pairs)
    ]
    assert choose_rules(MaskPairs(comparisons), labels) == choose_rules(pairs, labels)
