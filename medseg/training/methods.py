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
    """Dice + cross-entropy on labelled patches.

    Parameters
    ----------
    dimensions : of the network. Where the configuration leaves it open, Dice is taken over the batch
        in 2D (nnU-Net's choice): a class absent from a slice would cost a whole Dice otherwise.
    """

    def __init__(self, labels: LabelMap, config: TrainingConfig, dimensions: int) -> None:
        if config.batch_dice is None:
            config = config.model_copy(update={"batch_dice": dimensions == 2})
        self.loss = SegmentationLoss(labels, config)

    def step(self, network: nn.Module, batch: Batch) -> Terms:
        """Return `loss`, `dice` (the Dice loss) and `ce` of the batch."""
        losses = self.loss(network(batch["image"]), batch["target"])
        return {"loss": losses.total, "dice": losses.dice.detach(), "ce": losses.ce.detach()}
