"""Maps in the layout that processors convolve fastest: the channels of a voxel side by side.

oneDNN convolves blocks of channels. Maps that torch keeps channel by channel it reorders before every convolution and
back behind it. Kept voxel by voxel they are used as they are, but torch's instance norm reorders them all the same;
the one here doesn't.

Seconds of a training step's forward, loss and backward on two cores of an Intel Xeon with AMX, as torch lays maps out
and like this (torch 2.13, November 2026):

* two patches of 40x56x40, 32 to 256 features: bf16 0.84 and 0.63, float32 1.7 and 1.6
* the same with residual blocks: bf16 0.97 and 0.80, float32 2.0 and 1.7
* two patches of 96³, 16 to 256 features: bf16 3.2 and 2.3
* twelve slices of 256x256, 32 to 512 features: bf16 4.1 and 2.8, float32 8.6 and 7.0

On an NVIDIA H200 in bf16 (torch 2.11, November 2026), milliseconds: two patches of 112x112x80, 24 to 160 features, 41.8
and 28.5; two windows of 96³, 16 to 256 features, without gradient 10.9 and 6.3. There torch's instance norm computes a
channel of an image on one multiprocessor, the batch norm of one image on all.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The layout of maps (B, C, *spatial) and of convolutions' weights, by their number of axes."""


def lay_out(network: Network, dtype: torch.dtype) -> Network:
    """Return the network, laid out so that its maps have their channels side by side, if its norms keep them.

    Results differ by rounding; parameters keep their names and shapes.

    Parameters
    ----------
    dtype : that its layers compute in. GPUs convolve maps of float32 as torch lays them out.
    """
    norms = [module for module in network.modules() if isinstance(module, InstanceNorm2d | InstanceNorm3d)]
    if norms and (norms[0].weight.device.type == "cpu" or dtype != torch.float32):
        network.to(memory_format=LAYOUTS[norms[0].axes])  # type: ignore[call-overload]
    return network


class _AnyLayout(nn.modules.instancenorm._InstanceNorm):
    """What both norms do; `axes` is the number of the maps' axes."""

    axes: int

    def forward(self, maps: Tensor) -> Tensor:
        """Return the normalised maps, laid out as they were."""
        if maps.is_contiguous() or not maps.is_contiguous(memory_format=LAYOUTS[self.axes]):
            return super().forward(maps)
        # the norm of one image is a batch norm, which knows the layout
        scale, shift, eps = self.weight, self.bias, self.eps
        normed = [functional.batch_norm(one, None, None, scale, shift, True, eps=eps) for one in torch.split(maps, 1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class InstanceNorm2d(_AnyLayout, nn.InstanceNorm2d):
    """Instance norm of maps (B, C, Y, X) in either layout."""

    axes = 4


class InstanceNorm3d(_AnyLayout, nn.InstanceNorm3d):
    """Instance norm of maps (B, C, Z, Y, X) in either layout."""

    axes = 5
