"""The one shape of a network in medseg, whoever wrote its layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from medseg.outputs import NetworkOutput


class SegmentationNetwork(nn.Module):
    """A network that maps an image (B, C, *spatial) to a `NetworkOutput`.

    The answer does not depend on the precision of the caller's autocast, keeps nothing of the last
    call (so a copy for averaged weights can be made at any time), and is a pure function in
    evaluation mode.
    """

    @abstractmethod
    def forward(self, image: Tensor) -> NetworkOutput:
        """Return the logits at the image's size and, in training, the coarser ones."""

    @abstractmethod
    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters on the way down, which fine-tuning may leave as they are."""
