from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medseg.config import ExperimentConfig
from medseg.labels import LabelMap
from medseg.outputs import NetworkOutput
from medseg.training.lessons import build_method


@pytest.mark.parametrize(
    ("dimensions", "wish", "method", "over_batch"),
    [
        (2, None, "supervised", True),
        (3, None, "supervised", False),
        (2, False, "supervised", False),
        (3, None, "mix-teacher", True),
        (3, False, "mix-teacher", False),
    ],
)
def test_dice_is_taken_over_the_batch_where_patches_lack_classes(dimensions, wish, method, over_batch):
    """One of two slices lacks the class: over the batch a perfect answer costs nothing, slice by slice neither does it
    there, but the slightest probability in the empty slice costs a whole Dice."""
    config = ExperimentConfig.model_validate(
        {
            "training": {"batch_dice": wish, "ce_weight": 0.0},
            "unlabelled": {"method": method, "labelled_weight": 0.5},
        }
    )
    plan = SimpleNamespace(dimensions=dimensions)
    method = build_method(config, LabelMap.parse({"organ": 1}), plan, teacher=lambda image: NetworkOutput(image))
    target = torch.zeros(2, 8, 8, dtype=torch.uint8)
    target[0, 2:6, 2:6] = 1
    logits = torch.stack([torch.zeros(2, 8, 8), torch.where(target == 1, 9.0, -9.0)], 1)
    loss = float(method.loss(NetworkOutput(logits), target).total)
    assert (loss < 0.01) == over_batch
