from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax

from medseg.losses.distillation import SoftTargetLoss


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_is_scipys(temperature):
    ours, theirs = logits(0), logits(1)
    found, _ = SoftTargetLoss(regions=False, temperature=temperature)(ours, theirs)
    p, q = (softmax(values.double().numpy() / temperature, 1) for values in (theirs, ours))
    assert float(found) == pytest.approx(rel_entr(p, q).sum(1).mean() * temperature**2, rel=1e-5)


def test_divergence_of_regions_is_scipys():
    ours, theirs = logits(0), logits(1)
    found, _ = SoftTargetLoss(regions=True, temperature=2.0)(ours, theirs)
    p, q = (expit(values.double().numpy() / 2) for values in (theirs, ours))
    assert float(found) == pytest.approx((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean() * 4, rel=1e-5)


def test_dice_is_of_the_foreground_over_the_batch():
    ours, theirs = logits(0), logits(1)
    _, found = SoftTargetLoss(regions=False, temperature=2.0)(ours, theirs)
    p, q = (softmax(values.double().numpy(), 1)[:, 1:] for values in (ours, theirs))
    dice = [
        2 * (a * b).sum() / ((a**2).sum() + (b**2).sum())
        for a, b in zip(p.swapaxes(0, 1), q.swapaxes(0, 1), strict=True)
    ]
    assert float(found) == pytest.approx(1 - np.mean(dice), rel=1e-4)


@pytest.mark.parametrize("regions", [False, True])
def test_agreement_costs_nothing_and_anything_else_more(regions):
    loss, teacher = SoftTargetLoss(regions=regions, temperature=2.0), logits(1)
    same = loss(teacher.clone(), teacher)
    other = loss(teacher + 0.3 * logits(2), teacher)
    assert all(float(part) == pytest.approx(0, abs=1e-6) for part in same)
    assert all(float(part) > 1e-3 for part in other)


def test_only_the_student_learns():
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    sum(SoftTargetLoss(regions=False, temperature=2.0)(student, teacher)).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
