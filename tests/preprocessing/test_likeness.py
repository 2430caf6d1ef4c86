"""Scans that don't belong are named, with the reason; those that are merely other patients are not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medseg.geometry import Grid
from medseg.preprocessing.likeness import describe_appearance, strange_appearance
from medseg.preprocessing.prepare import Prepared


def appearance(array, spacing=(1.0, 1.0, 1.0)):
    array = ((array - array.mean()) / array.std()).astype(np.float32)
    grid = Grid(array.shape, np.diag([*spacing, 1.0]))
    return describe_appearance(Prepared(array[None], grid, grid))


def anatomy(seed, shape=(24, 22, 20), smooth=1.5):
    rng = np.random.default_rng(seed)
    array = gaussian_filter(rng.normal(size=shape), smooth)
    array[6:15, 6:15, 6:15] += 3 * array.std()
    return array


LABELLED = [appearance(anatomy(seed)) for seed in range(5)]


@pytest.mark.parametrize("seed", range(10, 16))
def test_other_patients_belong(seed):
    assert strange_appearance(appearance(anatomy(seed)), LABELLED) == ""


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (lambda: appearance(np.random.default_rng(0).normal(size=(24, 22, 20))), "neighbouring voxels"),
        (lambda: appearance(anatomy(9), (1.0, 1.0, 5.0)), "voxels .* differ .* factor of 5.0"),
        (lambda: appearance(anatomy(9, (24, 22, 200))), "field of view"),
        (lambda: appearance(np.exp(3 * anatomy(9) / anatomy(9).std())), "intensities are unlike"),
    ],
)
def test_what_does_not_belong_is_named(scan, reason):
    assert re.search(reason, strange_appearance(scan(), LABELLED))


def test_a_single_labelled_scan_is_enough_to_compare_with():
    assert strange_appearance(appearance(anatomy(7)), LABELLED[:1]) == ""
    assert strange_appearance(appearance(np.random.default_rng(0).normal(size=(24, 22, 20))), LABELLED[:1])


def test_a_constant_scan_has_an_appearance():
    grid = Grid((5, 5, 1), np.eye(4))
    assert describe_appearance(Prepared(np.zeros((1, 5, 5, 1), np.float32), grid, grid)).smoothness == (1.0,)


def test_a_scan_that_states_another_modality_does_not_belong():
    stated = [replace(scan, modality="MR") for scan in LABELLED]
    other = replace(appearance(anatomy(10)), modality="CT")
    assert strange_appearance(other, stated) == "it is CT, the labelled scans are MR"
    assert strange_appearance(replace(other, modality="MR"), stated) == ""
    assert strange_appearance(replace(other, modality=""), stated) == ""  # it states none: nothing is known
    assert strange_appearance(other, [*stated[:-1], LABELLED[-1]]) == ""  # nor is it of the labelled ones
