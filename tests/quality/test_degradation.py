"""Degraded copies: of the same scan, repeatable, and worse by more than training's augmentation."""

from __future__ import annotations

import numpy as np

from medseg.geometry import Grid
from medseg.quality.degradation import degrade
from medseg.volume import Volume


def scan(channels: int = 2) -> Volume:
    x = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 18, 12)), indexing="ij"))
    body = np.where((x**2).sum(0) < 0.5, 60.0, -900.0)
    array = np.stack([body * (channel + 1) for channel in range(channels)]).astype(np.float32)
    return Volume(array, Grid((20, 18, 12), np.diag([2.0, 2, 5, 1])), "CT")


def likeness(one: Volume, other: Volume) -> float:
    return float(np.corrcoef(one.array[0].ravel(), other.array[0].ravel())[0, 1])


def test_the_scan_stays_as_it_is_and_its_copy_keeps_the_place():
    volume = scan()
    before = volume.array.copy()
    copy = degrade(volume, np.random.default_rng(0))
    assert np.array_equal(volume.array, before)
    assert copy.grid is volume.grid
    assert copy.modality == "CT"
    assert copy.array.shape == before.shape
    assert copy.array.dtype == np.float32
    assert np.isfinite(copy.array).all()


def test_the_same_draw_gives_the_same_copy():
    one, again, other = (degrade(scan(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.array, again.array)
    assert not np.array_equal(one.array, other.array)


def test_copies_reach_from_unharmed_to_useless():
    likenesses = [likeness(scan(), degrade(scan(), np.random.default_rng(seed))) for seed in range(40)]
    assert max(likenesses) > 0.97
    assert min(likenesses) < 0.8
    assert 0.75 < np.median(likenesses) < 0.99


def test_a_scan_of_one_value_survives():
    flat = scan()
    flat.array[...] = 7
    for seed in range(10):
        assert np.isfinite(degrade(flat, np.random.default_rng(seed)).array).all()
