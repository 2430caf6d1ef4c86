"""The balanced loss against plain loops over voxels and classes, and what it must never do."""

import math

import pytest
import torch

from medseg.config import TrainingConfig
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.losses.balanced import DICE_SMOOTH, hard_cross_entropy
from medseg.losses.segmentation import SegmentationLoss
from medseg.outputs import NetworkOutput

CLASSES = LabelMap.parse({"liver": 1, "vessel": 5, "tumour": 9})
REGIONS = LabelMap.parse({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": 3})
BOTH = pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def loss_of(labels, logits, target, weight=None, coarse=(), **training):
    loss = SegmentationLoss(labels, TrainingConfig(loss="ga", **training))
    return loss(NetworkOutput(logits, tuple(coarse)), target, weight)


def random_case(labels, size=(6, 5, 4), classes=4):
    logits = torch.randn(2, labels.outputs, *size, dtype=torch.float32, requires_grad=True)
    target = torch.randint(0, classes, (2, *size), dtype=torch.uint8)
    target[0][target[0] == 3] = 2  # the last class is in the second patch alone
    return logits, target


def slow_dice(probabilities, members, counts, over_batch):
    """Loop over patches, targets and voxels; lists [patch][target][voxel]."""
    patches = range(len(probabilities))
    groups = [list(patches)] if over_batch else [[patch] for patch in patches]
    terms = []
    for group in groups:
        for target in range(len(probabilities[0])):
            overlap = true = predicted = stray = voxels = 0.0
            for patch in group:
                for p, t, w in zip(probabilities[patch][target], members[patch][target], counts[patch], strict=True):
                    overlap, true, predicted = overlap + w * p * t, true + w * t, predicted + w * p
                    stray, voxels = stray + w * p * p, voxels + w
            dice = (2 * overlap + DICE_SMOOTH) / (true + predicted + DICE_SMOOTH)
            terms.append(1 - dice if true else stray / voxels)
    return sum(terms) / len(terms)


def slow_cross_entropy(entropy, classes, counts):
    voxels = [(e, c, w) for e, c, w in zip(entropy, classes, counts, strict=True) if w > 0]
    hardest = sorted(voxels, reverse=True)[: math.ceil(len(voxels) / 10)]
    everything = sum(w for _, _, w in hardest)
    total = 0.0
    for cls in {c for _, c, _ in hardest}:
        own = [(e, w) for e, c, w in hardest if c == cls]
        total += sum(e * w for e, w in own) / math.sqrt(sum(w for _, w in own) * everything)
    return total


def slow_loss(labels, logits, target, weight, over_batch):
    counts = (target != IGNORE_INDEX).float() * (1 if weight is None else weight)
    values = logits.detach().double().flatten(2)
    if labels.regions:
        members = torch.stack([target >= 1, target >= 2, target == 3], 1) & (target != IGNORE_INDEX)[:, None]
        probabilities = values.sigmoid()
        members = members.flatten(2).double()
        entropy = -(members * probabilities.log() + (1 - members) * (1 - probabilities).log())
        columns = [
            slow_cross_entropy(
                entropy[:, k].flatten().tolist(), members[:, k].flatten().tolist(), counts.flatten().tolist()
            )
            for k in range(3)
        ]
        ce = sum(columns) / 3
    else:
        everything = values.softmax(1)
        classes = target.flatten(1).long() % IGNORE_INDEX
        members = torch.nn.functional.one_hot(classes, 4).movedim(-1, 1)[:, 1:]
        entropy = -everything.gather(1, classes[:, None])[:, 0].log()
        ce = slow_cross_entropy(entropy.flatten().tolist(), classes.flatten().tolist(), counts.flatten().tolist())
        probabilities = everything[:, 1:]
    rows = probabilities.tolist(), members.tolist(), counts.flatten(1).tolist()
    return slow_dice(*rows, over_batch), ce


@BOTH
@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_plain_loop(labels, over_batch, weighted):
    logits, target = random_case(labels)
    target[:, :2, 1:3] = IGNORE_INDEX
    weight = torch.rand(target.shape).where(torch.rand(target.shape) > 0.2, torch.zeros(())) if weighted else None
    losses = loss_of(labels, logits, target, weight, batch_dice=over_batch)
    dice, ce = slow_loss(labels, logits, target, weight, over_batch)
    assert losses.dice.item() == pytest.approx(dice, rel=1e-5)
    assert losses.ce.item() == pytest.approx(ce, rel=1e-5)


def test_an_absent_class_costs_its_mean_square_and_is_pushed_down_in_proportion():
    # Dice would cost 1 whether 1 % or 90 % are wrong; the gradient with respect to p is p / n.
    p = torch.tensor([0.01, 0.2, 0.5, 0.9])
    logits = torch.stack([(1 - p).log(), p.log()])[None].requires_grad_()
    losses = loss_of(LabelMap.parse({"liver": 1}), logits, torch.zeros(1, 4, dtype=torch.uint8), ce_weight=0.0)
    assert losses.dice.item() == pytest.approx((p**2).mean().item(), rel=1e-5)
    losses.total.backward()
    torch.testing.assert_close(logits.grad[0, 1], p / 4 * p * (1 - p))  # dp/dlogit = p (1 - p)


def test_the_hardest_tenth_alone_counts():
    entropy = torch.arange(1.0, 21.0, requires_grad=True)
    loss = hard_cross_entropy(entropy, torch.zeros(20, dtype=torch.long), torch.ones(20), 2)
    assert loss.item() == pytest.approx(19.5)  # of one class: the plain mean
    loss.backward()
    assert entropy.grad.nonzero().flatten().tolist() == [18, 19]


def test_a_class_counts_by_the_root_of_its_size():
    # Nine hard voxels of class 0 and one of class 1, all of loss 1: 9 / sqrt(9 * 10) + 1 / sqrt(1 * 10).
    entropy, classes = torch.ones(100), torch.zeros(100, dtype=torch.long)
    entropy[:90] = 0.01
    classes[99] = 1
    expected = (3 + 1) / math.sqrt(10)
    assert hard_cross_entropy(entropy, classes, torch.ones(100), 2).item() == pytest.approx(expected)


@BOTH
@pytest.mark.parametrize("weighted", [False, True])
def test_ignored_voxels_have_no_gradient_and_no_say(labels, weighted):
    logits, target = random_case(labels)
    coarse = torch.randn(2, labels.outputs, 3, 3, 2, requires_grad=True)
    ignored = torch.rand(target.shape) < 0.4
    weight = None
    if weighted:
        weight = torch.rand(target.shape).masked_fill(ignored, 0.0)
    else:
        target[ignored] = IGNORE_INDEX
    total = loss_of(labels, logits, target, weight, [coarse]).total
    total.backward()
    assert not logits.grad.movedim(1, -1)[ignored].any()
    assert logits.grad.movedim(1, -1)[~ignored].abs().sum(-1).min() > 0
    assert (coarse.grad.abs().sum(1) == 0).any()
    changed = logits.detach().clone()
    changed.movedim(1, -1)[ignored] = -30.0
    assert loss_of(labels, changed, target, weight, [coarse]).total.item() == pytest.approx(total.item(), rel=1e-6)


@BOTH
def test_only_the_ratio_of_weights_matters(labels):
    logits, target = random_case(labels)
    weight = torch.rand(target.shape) + 0.1
    torch.testing.assert_close(
        loss_of(labels, logits, target, weight), loss_of(labels, logits, target, 7 * weight), rtol=1e-5, atol=1e-5
    )


@BOTH
def test_nothing_labelled_costs_nothing(labels):
    logits = torch.randn(2, labels.outputs, 4, 4, requires_grad=True)
    losses = loss_of(labels, logits, torch.full((2, 4, 4), IGNORE_INDEX, dtype=torch.uint8))
    losses.total.backward()
    assert losses.total.item() == 0
    assert not logits.grad.any()


@BOTH
@pytest.mark.parametrize("over_batch", [False, True])
def test_the_gradient_is_the_loss_s_slope(labels, over_batch):
    # The dice of present targets and the cross-entropy; sg(p) makes the absent term's gradient half its slope.
    logits = torch.randn(1, labels.outputs, 4, 5, dtype=torch.float32, requires_grad=True)
    target = torch.arange(20, dtype=torch.uint8).reshape(1, 4, 5) % 4
    loss_of(labels, logits, target, batch_dice=over_batch).total.backward()
    step = torch.randn_like(logits)
    high, low = (loss_of(labels, logits.detach() + e * step, target, batch_dice=over_batch) for e in (1e-2, -1e-2))
    slope = (high.total - low.total).item() / 2e-2
    assert (logits.grad * step).sum().item() == pytest.approx(slope, rel=2e-2)


@BOTH
def test_half_precision_logits_do_not_overflow(labels):
    logits = torch.randn(1, labels.outputs, 48, 48, 48).to(torch.bfloat16).requires_grad_()
    target = torch.randint(0, 4, (1, 48, 48, 48), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss_of(labels, logits, target)
    torch.testing.assert_close(losses, loss_of(labels, logits.detach().float(), target))
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_coarser_outputs_weigh_half_as_in_the_plain_loss():
    logits, target = random_case(CLASSES, size=(8, 8, 4))
    coarse = torch.randn(2, 4, 4, 4, 4)
    whole = loss_of(CLASSES, logits, target, coarse=[coarse]).total
    fine, rough = loss_of(CLASSES, logits, target).total, loss_of(CLASSES, coarse, target[:, 1::2, 1::2]).total
    assert whole.item() == pytest.approx((2 * fine.item() + rough.item()) / 3)


@BOTH
def test_a_perfect_prediction_costs_nothing(labels):
    target = torch.randint(0, 4, (2, 6, 6), dtype=torch.uint8)
    if labels.regions:
        truth = torch.stack([target >= 1, target >= 2, target == 3], 1).float()
    else:
        truth = torch.nn.functional.one_hot(target.long(), 4).movedim(-1, 1).float()
    assert loss_of(labels, 80 * truth - 40, target).total.item() == pytest.approx(0, abs=1e-5)
    assert loss_of(labels, 40 - 80 * truth, target).total.item() > 10
