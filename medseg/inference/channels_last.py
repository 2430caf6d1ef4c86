"""A U-Net that only answers, in the layout that processors convolve fastest (`medseg.networks.layout`).

Beyond the layout, norm and activation together take two passes over the maps, the head writes logits as they are
stitched, and small layers of a single window go to oneDNN, too, where torch would take a convolution of its own that is
slower.

Seconds a window on two cores (torch 2.13, November 2026), before and after, in float32 and in bf16:

* 96³, 16 to 256 features: AMD EPYC 0.74 and 0.56, 0.36 and 0.31; Intel Xeon 0.56 and 0.44, 0.71 and 0.67
* 40x56x40, 24 to 192 features: 0.169 and 0.130, 0.082 and 0.073; 0.119 and 0.099, 0.18 and 0.16
* 128³, 16 to 128 features: 2.3 and 1.4, 0.88 and 0.72; 1.8 and 1.2, 1.6 and 1.5
* on an Intel Xeon with AMX, 96³, 16 to 256 features: 0.90 and 0.54, 0.42 and 0.27; a slice of 256x256, 32 to 512
  features: 0.18 and 0.14, 0.10 and 0.062

Norm and activation at once came later: a CT of 125 windows of 96³ in bf16 took the Xeon with AMX 62 s and now takes 55
(medians of three turns each, start to end), 42 and 35 of them in the network.

Logits differ by rounding: 1e-4 of a trained network in float32. In bf16 99.995 % of the voxels of hippocampi and atria
are those of float32.
"""

from __future__ import annotations

from copy import deepcopy
from math import gcd

import torch
from torch import Tensor, nn

from medseg.networks.layout import LAYOUTS, InstanceNorm2d, InstanceNorm3d, lay_out
from medseg.networks.unet import NEGATIVE_SLOPE, Activation, ConvBlock, UNet
from medseg.outputs import NetworkOutput

ROW = 128
"""Numbers that a norm handles at once: a processor's registers hold 32 of bf16, and a voxel may have fewer."""


def channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy that answers as a network does, faster on a CPU.

    Left as they are: networks on other devices, and others than ours.
    """
    if device.type != "cpu" or not isinstance(network, UNet) or not _has_onednn():
        return network
    return ChannelsLast(network)


def _has_onednn() -> bool:
    """Whether oneDNN is there with the instructions that its layers were measured with."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx2_supported()  # type: ignore[no-untyped-call]


class ChannelsLast(nn.Module):
    """A copy of a U-Net that answers in channels-last layout."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = lay_out(deepcopy(network), torch.float32)
        heads = self.network.heads
        if isinstance(heads[0], nn.Conv2d | nn.Conv3d):  # else it also undoes a stride
            heads[0] = _Head(heads[0])
        for module in list(self.network.modules()):
            _replace_layers(module)

    @torch.no_grad()
    def forward(self, windows: Tensor) -> NetworkOutput:
        """Return the logits (B, K, *spatial) of windows (B, C, *spatial), contiguous, and features."""
        output: NetworkOutput = self.network(windows.to(memory_format=LAYOUTS[windows.ndim]))
        return output._replace(logits=output.logits.contiguous())


def _replace_layers(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm2d | InstanceNorm3d):
            setattr(module, name, _Norm(child, activated=isinstance(module, ConvBlock)))
        elif isinstance(child, Activation):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.Conv2d | nn.Conv3d):
            setattr(module, name, _Convolution(child))


class _Norm(nn.Module):
    """Instance norm, and leaky ReLU behind it: a pass for the moments, and one for all that follows from them.

    The second is a depth-wise convolution of single voxels, the only operation that torch has of scale, shift and
    activation at once. Norm and activation of 16 maps of 96³ in bf16 took 14 ms on two cores of an Intel Xeon with AMX
    and take 5, of 32 maps of 48³ 2.0 and 1.1, in float32 4.1 and 4.0 (torch 2.13, November 2026).
    """

    def __init__(self, norm: InstanceNorm2d | InstanceNorm3d, *, activated: bool) -> None:
        super().__init__()
        self.norm = norm
        self.activation = ("leaky_relu", [NEGATIVE_SLOPE], "") if activated else ("none", [], "")

    def forward(self, maps: Tensor) -> Tensor:
        taken = maps if _takes(maps.dtype) else maps.float()
        normed = [self._normed(one).to(maps.dtype) for one in torch.split(taken, 1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)

    def _normed(self, maps: Tensor) -> Tensor:
        """Return the maps (1, C, *spatial) of one image, normalised and activated."""
        rows, repeats = _in_rows(maps)
        mean, variance = _moments(rows, repeats)
        scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        scale = scale.to(maps.dtype).float()  # as it is multiplied by, so that the mean vanishes all the same
        shift = self.norm.bias - mean * scale
        scale, shift = scale.repeat(repeats).to(maps.dtype), shift.repeat(repeats)
        kernel = scale[:, None, None, None]
        normed = torch.ops.mkldnn._convolution_pointwise(
            rows, kernel, shift, (0, 0), (1, 1), (1, 1), len(scale), *self.activation
        )
        return normed.permute(0, 2, 3, 1).reshape(1, *maps.shape[2:], -1).movedim(-1, 1)


def _takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this arithmetic here; for 16 bits it wants instructions that many processors lack."""
    onednn = torch.ops.mkldnn
    asked = {torch.bfloat16: onednn._is_mkldnn_bf16_supported, torch.float16: onednn._is_mkldnn_fp16_supported}
    return dtype not in asked or bool(asked[dtype]())


def _in_rows(maps: Tensor) -> tuple[Tensor, int]:
    """Return maps (1, C, *spatial) as (1, R * C, Y, X), R neighbouring voxels in a row, and R."""
    channels, voxels = maps.shape[1], maps[0, 0].numel()
    repeats = gcd(voxels, 1 << (max(1, ROW // channels).bit_length() - 1))
    rows = voxels // repeats
    width = gcd(rows, 256)  # images of one column take several times as long
    return maps.movedim(1, -1).reshape(1, rows // width, width, -1).movedim(-1, 1), repeats


def _moments(rows: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance (C,) of maps whose `repeats` neighbouring voxels make a row, in float32."""
    unused = torch.zeros(2, rows.shape[1])  # averages over batches, which say that the moments are wanted in float32
    mean, variance = torch.ops.aten.batch_norm_update_stats(rows, *unused, 0.0)
    mean, variance = mean.view(repeats, -1), variance.view(repeats, -1)
    overall = mean.mean(0)
    return overall, (variance + (mean - overall).square()).mean(0)


class _Convolution(nn.Module):
    """oneDNN's convolution, whatever the size; in bf16 torch takes it by itself."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, maps: Tensor) -> Tensor:
        conv = self.conv
        if torch.is_autocast_enabled("cpu"):
            return conv(maps)
        return torch.ops.aten.mkldnn_convolution(
            maps, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
        )


class _Head(nn.Module):
    """A convolution of single voxels whose outputs lie one after the other, as they are stitched."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.weight = conv.weight.flatten(1)
        self.bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        logits = [torch.addmm(self.bias[:, None], self.weight, one.flatten(1)) for one in maps]
        joined = logits[0][None] if len(logits) == 1 else torch.stack(logits)
        return joined.view(len(maps), -1, *maps.shape[2:])
