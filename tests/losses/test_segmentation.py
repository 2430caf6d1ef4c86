"""The loss against closed forms, torch and MONAI; what is ignored has no gradient."""

import pytest
import torch
from torch.nn import functional

from medseg.config import TrainingConfig
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.losses.segmentation import SegmentationLoss
from medseg.losses.sums import COPIES, class_sums
from medseg.outputs import NetworkOutput

CLASSES = LabelMap.parse({"liver": 1, "vessel": 5, "tumour": 9})
REGIONS = LabelMap.parse({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": 3})


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def loss_of(labels, logits, target, weight=None, coarse=(), **training):
    loss = SegmentationLoss(labels, TrainingConfig(**training))
    return loss(NetworkOutput(logits, tuple(coarse)), target, weight)


def random_case(classes=4, size=(6, 5, 4)):
    logits = torch.randn(2, classes, *size, requires_grad=True)
    return logits, torch.randint(0, 4, (2, *size), dtype=torch.uint8)


def test_sums_by_class_in_several_copies_are_the_same_sums(monkeypatch):
    classes = torch.randint(0, 4, (2, 6, 5, 4))
    sums, gradients = [], []
    for copies in (1, 7):
        monkeypatch.setitem(COPIES, "cpu", copies)
        values = torch.linspace(0, 1, 240).reshape(2, 6, 5, 4).requires_grad_()
        sums.append(class_sums(values, classes, 5))
        sums[-1].square().sum().backward()
        gradients.append(values.grad)
    expected = [[float(values[one][classes[one] == k].detach().sum()) for k in range(5)] for one in range(2)]
    torch.testing.assert_close(sums[0].detach(), torch.tensor(expected))
    torch.testing.assert_close(sums[1], sums[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_closed_form():
    # Two voxels, background and one class, p(class) = 0.8 and 0.4; the class is in the first.
    p = torch.tensor([0.8, 0.4])
    logits = torch.stack([(1 - p).log(), p.log()])[None]
    losses = loss_of(LabelMap.parse({"liver": 1}), logits, torch.tensor([[1, 0]], dtype=torch.uint8))
    assert losses.ce.item() == pytest.approx(-(torch.log(torch.tensor(0.8)) + torch.log(torch.tensor(0.6))).item() / 2)
    assert losses.dice.item() == pytest.approx(1 - 2 * 0.8 / (1.2 + 1), abs=1e-5)
    assert losses.total.item() == pytest.approx((losses.ce + losses.dice).item())


@pytest.mark.parametrize("size", [(6, 5), (6, 5, 4)])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_classes_agree_with_monai_and_torch(size, batch_dice):
    from monai.losses import DiceCELoss

    logits, target = random_case(size=size)
    monai = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice)
    expected = monai(logits, target[:, None].float())
    expected_gradient = torch.autograd.grad(expected, logits)[0]

    losses = loss_of(CLASSES, logits, target, batch_dice=batch_dice)
    losses.total.backward()

    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.ce.item() == pytest.approx(functional.cross_entropy(logits, target.long()).item(), rel=1e-5)
    torch.testing.assert_close(logits.grad, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_regions_agree_with_torch_and_monai(batch_dice):
    from monai.losses import DiceLoss

    logits, target = random_case(classes=3)
    members = torch.stack([target >= 1, target >= 2, target == 3], 1).float()
    losses = loss_of(REGIONS, logits, target, batch_dice=batch_dice)
    bce = functional.binary_cross_entropy_with_logits(logits, members)
    assert losses.ce.item() == pytest.approx(bce.item(), rel=1e-5)
    assert losses.dice.item() == pytest.approx(
        DiceLoss(sigmoid=True, batch=batch_dice)(logits, members).item(), rel=1e-5
    )


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("weighted", [False, True])
def test_ignored_voxels_have_no_gradient_and_no_say(labels, weighted):
    logits, target = random_case(classes=labels.outputs)
    coarse = torch.randn(2, labels.outputs, 3, 3, 2, requires_grad=True)
    ignored = torch.rand(target.shape) < 0.4
    target[ignored] = IGNORE_INDEX
    weight = torch.rand(target.shape) if weighted else None
    total = loss_of(labels, logits, target, weight, [coarse]).total
    total.backward()
    assert not logits.grad.movedim(1, -1)[ignored].any()
    assert logits.grad.movedim(1, -1)[~ignored].abs().sum(-1).min() > 0
    assert (coarse.grad.abs().sum(1) == 0).any()

    changed = logits.detach().clone()
    changed.movedim(1, -1)[ignored] = 30.0
    assert loss_of(labels, changed, target, weight, [coarse]).total.item() == pytest.approx(total.item(), rel=1e-6)


def test_ignoring_is_leaving_out():
    logits, target = random_case(size=(8,))
    target[:, 5:] = IGNORE_INDEX
    whole = loss_of(CLASSES, logits, target)
    part = loss_of(CLASSES, logits[..., :5], target[:, :5])
    torch.testing.assert_close(whole, part)


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_nothing_labelled_costs_nothing(labels):
    logits = torch.randn(2, labels.outputs, 4, 4, requires_grad=True)
    losses = loss_of(labels, logits, torch.full((2, 4, 4), IGNORE_INDEX, dtype=torch.uint8))
    losses.total.backward()
    assert losses.total.item() == 0
    assert not logits.grad.any()


def test_weights_count_voxels():
    # A voxel of weight 2 counts as two voxels, one of weight 0 as none, and only the ratio matters.
    logits, target = random_case(size=(6,))
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0, 1.0]).repeat(2, 1)
    voxels = [0, 1, 1, 2, 3, 5]
    weighted = loss_of(CLASSES, logits, target, weight)
    torch.testing.assert_close(weighted, loss_of(CLASSES, logits[..., voxels], target[:, voxels]))
    torch.testing.assert_close(weighted, loss_of(CLASSES, logits, target, 7 * weight), rtol=1e-5, atol=1e-5)


def test_weights_of_the_two_parts():
    logits, target = random_case()
    losses = loss_of(CLASSES, logits, target, dice_weight=0.5, ce_weight=3.0)
    assert losses.total.item() == pytest.approx(0.5 * losses.dice.item() + 3 * losses.ce.item())


def test_deep_supervision_halves_the_weight_at_each_stage():
    logits, target = random_case(size=(8, 8, 4))
    target[:, :3] = IGNORE_INDEX
    coarse = [torch.randn(2, 4, 4, 4, 4), torch.randn(2, 4, 2, 2, 2)]
    pooled = [target[:, 1::2, 1::2], target[:, 2::4, 2::4, 1::2]]  # nearest voxel of each coarse one
    levels = [loss_of(CLASSES, x, y).total for x, y in zip([logits, *coarse], [target, *pooled], strict=True)]
    losses = loss_of(CLASSES, logits, target, coarse=coarse)
    assert losses.total.item() == pytest.approx(sum(w * x.item() for w, x in zip((4, 2, 1), levels, strict=True)) / 7)
    alone = loss_of(CLASSES, logits, target)
    assert (losses.dice, losses.ce) == (alone.dice, alone.ce)
    assert not losses.dice.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_half_precision_logits_do_not_overflow(labels, dtype):
    # 64³ voxels: sums pass 65,504, the largest float16, and MONAI's DiceLoss answers exactly 1.
    logits = torch.randn(2, labels.outputs, 64, 64, 64).to(dtype)
    target = torch.randint(0, 4, (2, 64, 64, 64), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss_of(labels, logits, target)
    exact = loss_of(labels, logits.double().float(), target)
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses, exact)
    assert 0.5 < losses.dice.item() < 0.99


def test_half_precision_logits_get_a_gradient():
    logits = torch.randn(2, 4, 8, 8).to(torch.bfloat16).requires_grad_()
    target = torch.randint(0, 4, (2, 8, 8), dtype=torch.uint8)
    loss_of(CLASSES, logits, target).total.backward()
    assert logits.grad.dtype == torch.bfloat16
    assert logits.grad.any()


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much():
    target = torch.randint(0, 4, (2, 6, 6), dtype=torch.uint8)
    perfect = 40 * functional.one_hot(target.long(), 4).movedim(-1, 1).float()
    assert loss_of(CLASSES, perfect, target).total.item() == pytest.approx(0, abs=1e-5)
    assert loss_of(CLASSES, -perfect, target).total.item() > 10


def test_an_absent_class_is_pushed_down_hard():
    # Dice of an absent class is smooth / sum of p: any probability there costs nearly 1 (as in nnU-Net).
    logits = torch.zeros(2, 2, 10, requires_grad=True)
    losses = loss_of(LabelMap.parse({"liver": 1}), logits, torch.zeros(2, 10, dtype=torch.uint8))
    assert losses.dice.item() == pytest.approx(1 - 1e-5 / 5, abs=1e-6)
