"""The patients: plausible organs of plausible attenuation, tumours inside them that thresholds can't find."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from medseg.geometry import Grid
from medseg.phantom.acquisition import Phantom, Scanner, acquire
from medseg.phantom.body import KIDNEY, LIVER, SPLEEN, TUMOUR
from medseg.phantom.contrast import random_contrast
from medseg.phantom.organs import draw_body

WHOLE = Grid((76, 64, 58), np.array([[5.0, 0, 0, -187.5], [0, 5.0, 0, -157.5], [0, 0, 5.0, -150.0], [0, 0, 0, 1]]))
ORGAN_ML = {LIVER: (600, 2800), KIDNEY: (120, 650), SPLEEN: (40, 450), TUMOUR: (1, 250)}
"""Volumes (ml) between which a patient is a patient; a tumour of 21 mm radius has 39 ml, and there are up to four."""


@pytest.fixture(scope="module")
def patients() -> list[np.ndarray]:
    """Label maps of whole patients, coarse and without noise."""
    return [acquire(draw_body(seed), WHOLE, Scanner(samples=1), 0).mask.array for seed in range(6)]


def test_every_patient_has_all_organs_of_a_plausible_size(patients: list[np.ndarray]):
    for labels in patients:
        for label, (least, most) in ORGAN_ML.items():
            assert least < (labels == label).sum() * WHOLE.voxel_ml < most


def test_patients_differ(patients: list[np.ndarray]):
    sizes = [(labels == LIVER).sum() for labels in patients]
    assert np.std(sizes) > 0.05 * np.mean(sizes)


def test_tumours_lie_inside_an_organ(phantoms: tuple[Phantom, ...]):
    for phantom in phantoms:
        labels = phantom.mask.array
        tumours = labels == TUMOUR
        rim = binary_dilation(tumours) & ~tumours
        assert tumours.any()
        assert np.isin(labels[rim], (LIVER, KIDNEY)).mean() > 0.6


def test_tumours_can_be_resolved(phantoms: tuple[Phantom, ...]):
    for phantom in phantoms:
        tumours = np.argwhere(phantom.mask.array == TUMOUR)
        assert (np.ptp(tumours, axis=0) >= 2).all()
        assert len(tumours) > 60


def test_tissues_have_the_attenuation_of_ct(phantoms: tuple[Phantom, ...]):
    for phantom in phantoms:
        hu, labels = phantom.volume.array[0], phantom.mask.array
        assert np.median(hu[:3, :3, :3]) < -900
        assert 45 < np.median(hu[labels == LIVER]) < 125
        assert 40 < np.median(hu[labels == SPLEEN]) < 135
        assert 25 < np.median(hu[labels == KIDNEY]) < 195
        assert np.percentile(hu, 99.5) > 250  # bone
        fat = np.histogram(hu, bins=np.arange(-300, 0, 20))[0].argmax() * 20 - 290
        assert -130 <= fat <= -80


def test_contrast_phases_occur_in_their_shares():
    rng = np.random.default_rng(0)
    arteries = np.array([random_contrast(rng).artery for _ in range(500)])
    assert 0.09 < (arteries < 60).mean() < 0.22
    assert 0.09 < (arteries > 240).mean() < 0.22


def best_window_dice(hu: np.ndarray, tumour: np.ndarray) -> float:
    """Return the best Dice that any window [low, high) of whole HU reaches: all of them are tried."""
    bins = np.arange(-200, 401)
    found = np.concatenate([[0], np.histogram(hu, bins)[0].cumsum()])
    right = np.concatenate([[0], np.histogram(hu[tumour], bins)[0].cumsum()])
    dice = 2 * (right - right[:, None]) / (found - found[:, None] + tumour.sum()).clip(1)
    return float(np.triu(dice).max())


def test_the_search_for_a_window_finds_one_that_exists():
    hu = np.array([0.0, 10, 20, 30, 40, 50])
    assert best_window_dice(hu, np.array([0, 0, 1, 1, 0, 0], dtype=bool)) == 1.0
    assert best_window_dice(hu, np.array([0, 1, 0, 0, 1, 0], dtype=bool)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_no_intensity_window_finds_the_tumours(phantoms: tuple[Phantom, ...], smoothing: float):
    whole, within = [], []
    for phantom in phantoms:
        hu, labels = gaussian_filter(phantom.volume.array[0], smoothing), phantom.mask.array
        organ = np.isin(labels, (LIVER, KIDNEY, TUMOUR))
        whole.append(best_window_dice(hu, labels == TUMOUR))
        within.append(best_window_dice(hu[organ], labels[organ] == TUMOUR))
    # Each patient gets the window that suits them best, which no method could know.
    assert np.mean(whole) < 0.3
    assert np.mean(within) < 0.6  # even with the organ given
