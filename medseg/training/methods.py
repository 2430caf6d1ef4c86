"""What a network learns from in one step. A method is an object; the loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from medseg.data.batches import Batch
from medseg.losses.segmentation import SegmentationLoss

Terms = dict[str, Tensor]
"""Scalars of one step by name; `loss` is what is minimised, the others are logged."""


class Method(Protocol):
    """Turns a batch into the terms of a loss; what it remembers between steps are its buffers."""

    def step(self, network: nn.Module, batch: Batch, progress: float) -> Terms:
        """Return the terms for one batch; `loss` carries the gradient.

        Parameters
        ----------
        progress : share of the steps that are done, 0 to 1.
        """
        ...

    def to(self, device: torch.device) -> Method:
        """Keep what it remembers on a device."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return what it remembers, for a checkpoint."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Remember what a checkpoint holds."""
        ...


class Supervised(nn.Module):
    """Dice + cross-entropy on labelled patches."""

    def __init__(self, loss: SegmentationLoss) -> None:
        super().__init__()
        self.loss = loss

    def step(self, network: nn.Module, batch: Batch, progress: float) -> Terms:
        """Return `loss`, `dice` (the Dice loss) and `ce` of the batch."""
        return supervised(self.loss, network, batch)


def supervised(loss: SegmentationLoss, network: nn.Module, batch: Batch) -> Terms:
    """Return `loss`, `dice` (the Dice loss) and `ce` of a batch's labelled patches."""
    losses = loss(network(batch["image"]), batch["target"])
    return {"loss": losses.total, "dice": losses.dice.detach(), "ce": losses.ce.detach()}
