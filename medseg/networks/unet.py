"""The plain U-Net of nnU-Net, in 2D and 3D, with our own layers.

Layout and constants follow PlainConvUNet and ResidualEncoderUNet of dynamic-network-architectures
0.4 (Isensee et al., Nature Methods 2021; nnU-Net revisited, MICCAI 2024): convolution with bias,
instance norm (affine, eps 1e-5), leaky ReLU 0.01; downsampling by strided convolution, upsampling by
transposed convolution; a 1x1 head on every decoder stage but the coarsest, whose loss nnU-Net
weighs with 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.base import SegmentationNetwork
from medseg.networks.layout import InstanceNorm2d, InstanceNorm3d
from medseg.outputs import NetworkOutput
from medseg.plan import NetworkPlan

NEGATIVE_SLOPE = 0.01
"""Slope of the leaky ReLU, and `a` of He's initialisation (nnU-Net)."""

FEATURE_STAGE = 3
"""Decoder stage that features are shown of, from the finest: a quarter of the resolution in the usual plan."""

NORM_EPS = 1e-5
"""Added to the variance in instance norm (nnU-Net)."""

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ConvShape:
    """What distinguishes one convolution from another; `kernel` and `stride` have one entry an axis."""

    inputs: int
    outputs: int
    kernel: Sizes
    stride: Sizes
    dropout: float = 0.0

    @property
    def following(self) -> ConvShape:
        """The next convolution of the same stage."""
        return replace(self, inputs=self.outputs, stride=(1,) * len(self.stride))


def _norm(shape: ConvShape) -> nn.Module:
    layer = InstanceNorm3d if len(shape.kernel) == 3 else InstanceNorm2d
    return layer(shape.outputs, eps=NORM_EPS, affine=True)


def _conv(shape: ConvShape, *, bias: bool = True) -> nn.Conv2d | nn.Conv3d:
    layer = nn.Conv3d if len(shape.kernel) == 3 else nn.Conv2d
    padding: Any = tuple((k - 1) // 2 for k in shape.kernel)
    kernel: Any = shape.kernel
    stride: Any = shape.stride
    return layer(shape.inputs, shape.outputs, kernel, stride, padding, bias=bias)


class Activation(nn.LeakyReLU):
    """Leaky ReLU in place.

    What an instance norm returns is a view of its maps merged into one batch, and autograd answers a change of a view
    with four copies of the maps. So here it is told that it is none: 2 % less time a training step on two cores, and
    the same gradients bit by bit.
    """

    def __init__(self) -> None:
        super().__init__(NEGATIVE_SLOPE, inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, changed."""
        return super().forward(torch.ops.aten._unsafe_view(maps, maps.shape) if self.training else maps)


class ConvBlock(nn.Sequential):
    """Convolution, dropout of whole maps where asked for, instance norm, leaky ReLU."""

    def __init__(self, shape: ConvShape) -> None:
        layers: list[nn.Module] = [_conv(shape)]
        if shape.dropout:
            layers.append(nn.Dropout3d(shape.dropout) if len(shape.kernel) == 3 else nn.Dropout2d(shape.dropout))
        layers += [_norm(shape), Activation()]
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (nnU-Net's BasicBlockD: the shortcut pools, then projects)."""

    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        self.first = ConvBlock(shape)
        self.second = nn.Sequential(_conv(shape.following), _norm(shape))
        ones = shape.following.stride
        shortcut: list[nn.Module] = []
        if shape.stride != ones:
            pool: Any = nn.AvgPool3d if len(ones) == 3 else nn.AvgPool2d
            shortcut.append(pool(shape.stride, shape.stride))
        if shape.inputs != shape.outputs:
            project = ConvShape(shape.inputs, shape.outputs, ones, ones)
            shortcut += [_conv(project, bias=False), _norm(shape)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps of the next block, at the stride's resolution."""
        total = self.second(self.first(maps)) + self.shortcut(maps)
        return functional.leaky_relu_(total, NEGATIVE_SLOPE)


class DecoderStage(nn.Module):
    """Upsample the coarser maps, join the encoder's maps of that resolution, convolve.

    Parameters
    ----------
    finer, coarser : the encoder's stages of the resolution to reach and of the one below.
    convolutions : how many follow the joining.
    """

    def __init__(self, finer: ConvShape, coarser: ConvShape, convolutions: int) -> None:
        super().__init__()
        layer: Any = nn.ConvTranspose3d if len(coarser.stride) == 3 else nn.ConvTranspose2d
        self.up = layer(coarser.outputs, finer.outputs, coarser.stride, coarser.stride)
        self.convs = _plain_stage(replace(finer.following, inputs=2 * finer.outputs), convolutions)

    def join(self, coarser: Tensor, skipped: Tensor) -> Tensor:
        """Return the maps to convolve, at `skipped`'s resolution."""
        return torch.cat((self.up(coarser), skipped), 1)

    def forward(self, joined: Tensor) -> Tensor:
        """Return the maps of `skipped`'s resolution; apart from `join`, so that what was joined can be freed."""
        maps: Tensor = self.convs(joined)
        return maps


class UNet(SegmentationNetwork):
    """Encoder, decoder and heads from a `NetworkPlan`.

    Parameters
    ----------
    channels : image channels.
    outputs : logits a voxel.
    topology : features, kernels and strides, finest stage first.
    axes : which of x, y, z the network sees: (0, 1, 2), or the two in a slice.

    Notes
    -----
    Image sizes must be multiples of the strides' product along each axis. With
    ``topology.residual`` an encoder stage has residual blocks of two convolutions each in place of
    the plain ones, after one plain convolution on the image.

    With nnU-Net's weights the logits are nnU-Net's bit for bit (plain and residual, 2D and 3D, against
    dynamic-network-architectures 0.4.4).
    """

    def __init__(self, channels: int, outputs: int, topology: NetworkPlan, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        stages = _stages(channels, topology, axes)
        self.stem: nn.Module = nn.Identity()
        first = stages[0].stride
        if topology.residual:
            self.stem, stages[0] = ConvBlock(stages[0]), stages[0].following
        stage = _residual_stage if topology.residual else _plain_stage
        self.encoder = nn.ModuleList(stage(shape, topology.convolutions) for shape in stages)
        self.decoder = nn.ModuleList(
            DecoderStage(finer, coarser, topology.convolutions) for finer, coarser in reversed(list(pairwise(stages)))
        )
        supervised = max(1, len(stages) - 2) if topology.deep_supervision else 1
        undone = [first, *[(1,) * len(axes)] * (supervised - 1)]
        self.heads = nn.ModuleList(_head(s.outputs, outputs, stride) for s, stride in zip(stages, undone, strict=False))
        self.apply(_initialise)
        for module in self.modules():
            if isinstance(module, ResidualBlock):  # every block starts as its shortcut
                nn.init.zeros_(module.second[-1].weight)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return logits (B, K, *spatial) and a stage's features; the coarser logits too while training."""
        maps, skipped = self.stem(image), []
        for stage in self.encoder:
            maps = stage(maps)
            skipped.append(maps)
        skipped.pop()
        stages = []
        for stage in self.decoder:
            assert isinstance(stage, DecoderStage)
            maps = stage(stage.join(maps, skipped.pop()))
            stages.append(maps)
        finest, *coarser = (head(m) for head, m in zip(self.heads, self._supervised(stages), strict=False))
        return NetworkOutput(finest, tuple(coarser), stages[-min(FEATURE_STAGE, len(stages))])

    def _supervised(self, stages: list[Tensor]) -> list[Tensor]:
        """Return the decoder maps that get a head now, finest first."""
        return stages[::-1] if self.training else stages[-1:]

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of stem and encoder."""
        yield from self.stem.parameters()
        yield from self.encoder.parameters()


def _stages(channels: int, topology: NetworkPlan, axes: Sequence[int]) -> list[ConvShape]:
    """Return the first convolution of each encoder stage, finest first."""
    return [
        ConvShape(
            inputs,
            outputs,
            tuple(kernel[axis] for axis in axes),
            tuple(stride[axis] for axis in axes),
            topology.dropout,
        )
        for (inputs, outputs), kernel, stride in zip(
            pairwise((channels, *topology.features)), topology.kernels, topology.strides, strict=True
        )
    ]


def _head(inputs: int, outputs: int, stride: Sizes) -> nn.Module:
    """Return what turns maps into logits: a 1x1 convolution, or one that also undoes a stride."""
    ones = (1,) * len(stride)
    if stride == ones:
        return _conv(ConvShape(inputs, outputs, ones, ones))
    layer: Any = nn.ConvTranspose3d if len(stride) == 3 else nn.ConvTranspose2d
    head: nn.Module = layer(inputs, outputs, stride, stride)
    return head


def _plain_stage(shape: ConvShape, convolutions: int) -> nn.Sequential:
    """Return `convolutions` blocks; the first one changes features and resolution."""
    return nn.Sequential(ConvBlock(shape), *(ConvBlock(shape.following) for _ in range(convolutions - 1)))


def _residual_stage(shape: ConvShape, convolutions: int) -> nn.Sequential:
    """Return residual blocks with `convolutions` convolutions in all, rounded up to whole blocks."""
    blocks = -(-convolutions // 2)
    return nn.Sequential(ResidualBlock(shape), *(ResidualBlock(shape.following) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
