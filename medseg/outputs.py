"""What a network answers: named fields that networks, losses, training and inference share.

It lives on the ground floor because the losses and the networks, siblings, both speak it; torch is
named in its types only and never imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class NetworkOutput(NamedTuple):
    """Logits of every voxel; new heads become new fields, never new positions.

    Attributes
    ----------
    logits : (B, K, *spatial), K = `LabelMap.outputs`, at the input's size.
    coarse : logits of the decoder's coarser stages, finest first, each (B, K, *smaller): what deep
        supervision learns from. Empty in evaluation mode and without deep supervision.
    features : (B, F, *smaller) maps of the decoder stage at a quarter of the input's resolution, or the
        coarsest there is; None from networks that don't show theirs.
    """

    logits: Tensor
    coarse: tuple[Tensor, ...] = ()
    features: Tensor | None = None
