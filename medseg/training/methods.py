"""What a network learns from in one step. A method is an object; the loop knows nothing else of it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from medseg.config import TrainingConfig
from medseg.data.batches import Batch
from medseg.labels import LabelMap
from medseg.losses.segmentation import SegmentationLoss

Terms = dict[str, Tensor]
"""Scalars of one step by name; `loss` is what is minimised, the others are logged."""


class Method(Protocol):
    """Turns a batch into the terms of a loss."""

    def step(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the terms for one batch; `loss` carries the gradient."""
        ...


class Supervised:
    """Dice + cross-entropy on labelled patches."""

    def __init__(self, labels: LabelMap, config: TrainingConfig) -> None:
        self.loss = SegmentationLoss(labels, config)

    def step(self, network: nn.Module, batch: Batch) -> Terms:
        """Return `loss`, `dice` (the Dice loss) and `ce` of the batch."""
        losses = self.loss(network(batch["image"]), batch["target"])
        return {"loss": losses.total, "dice": losses.dice.detach(), "ce": losses.ce.detach()}
