"""The shape of a network: how often each axis is halved, with which kernels, for a patch and spacing.

A U-Net follows the data: an axis is halved only while its voxels are as fine as the others', so that
a thick-slice scan is first reduced in plane. The other architectures halve all axes together, a
fixed number of times. Axes that a 2D network doesn't see have size, stride and kernel 1.

Notes
-----
The U-Net's rules are nnU-Net's (Isensee et al., Nature Methods 2021, supplement E; source of
nnunetv2 2.8.1, ``get_pool_and_conv_props``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.config import NetworkConfig, Triple
from medseg.errors import PlanError
from medseg.plan import NetworkPlan, Sizes

MIN_EDGE = 4
"""An axis is not halved below this many voxels: a deeper stage would see little but padding."""

SIMILAR_SPACING = 2.0
"""Axes whose spacing is less than this factor above the finest are treated alike (nnU-Net)."""

STAGES = {"segresnet": 4, "vnet": 5, "swinunetr": 6}
"""Stages of MONAI's architectures, whose depth is fixed: patches are multiples of 8, 16 and 32."""

KERNEL = {"segresnet": 3, "vnet": 5, "swinunetr": 3}
"""Edge of their convolution kernels, voxels."""

SWIN_MULTIPLE = 12
"""SwinUNETR's features are a multiple of this: its attention heads share them."""

VNET_FEATURES = (16, 32, 64, 128, 256)
"""MONAI's VNet has these feature maps and no option to change them."""


@dataclass(frozen=True, slots=True)
class Design:
    """A network together with the patch that fits its strides."""

    network: NetworkPlan
    patch: Sizes

    @property
    def voxels(self) -> int:
        """Voxels of the patch."""
        x, y, z = self.patch
        return x * y * z


@dataclass(frozen=True, slots=True)
class Architect:
    """Designs the configured network for any patch of one dataset.

    Parameters
    ----------
    config : the wanted network.
    spacing : mm along x, y, z of the grid that the network sees.
    axes : the axes the network works along: (0, 1, 2), or two of them in 2D.
    channels : input channels.
    """

    config: NetworkConfig
    spacing: Triple
    axes: tuple[int, ...]
    channels: int

    def design(self, patch: Sequence[int]) -> Design:
        """Return the network for at least `patch` voxels; the patch grows to fit its strides.

        Raises
        ------
        PlanError
            If the architecture can't take this number of channels.
        """
        if self.config.name == "unet":
            return self._design_unet(patch)
        return self._design_fixed(patch)

    def _design_unet(self, patch: Sequence[int]) -> Design:
        sizes = self._at_least_two_stages(patch)
        strides, kernels = grow_stages(self.spacing, sizes, self.axes)
        features = tuple(min(self.config.features * 2**i, self.config.max_features) for i in range(len(strides)))
        network = NetworkPlan(
            name="unet",
            features=features,
            kernels=kernels,
            strides=strides,
            residual=self.config.residual,
            deep_supervision=self.config.deep_supervision,
            dropout=self.config.dropout,
        )
        return Design(network, round_up(sizes, network.divisor))

    def _design_fixed(self, patch: Sequence[int]) -> Design:
        name = self.config.name
        if name == "vnet" and VNET_FEATURES[0] % self.channels:
            raise PlanError(f"vnet takes 1, 2, 4, 8 or 16 channels, the dataset has {self.channels}; choose another")
        if name == "segresnet" and self.config.dropout:
            raise PlanError(f"segresnet has no dropout: network.dropout must be 0, not {self.config.dropout:g}")
        halving = self._along_axes(2)
        network = NetworkPlan(
            name=name,
            features=self._fixed_features(),
            kernels=(self._along_axes(KERNEL[name]),) * STAGES[name],
            strides=((1, 1, 1), *[halving] * (STAGES[name] - 1)),
            deep_supervision=self.config.deep_supervision and name == "segresnet",
            dropout=self.config.dropout,
        )
        x, y, z = round_up(patch, network.divisor)
        if max(size // d for size, d in zip((x, y, z), network.divisor, strict=True)) < 2:
            # One voxel would be left at the bottom, and instance norm can't tell it from its mean.
            x, y = (2 * x, y) if 0 in self.axes else (x, 2 * y)
        return Design(network, (x, y, z))

    def _fixed_features(self) -> tuple[int, ...]:
        if self.config.name == "vnet":
            return VNET_FEATURES
        if self.config.name == "segresnet":
            return tuple(self.config.features * 2**stage for stage in range(STAGES["segresnet"]))
        width = SWIN_MULTIPLE * max(1, round(self.config.features / SWIN_MULTIPLE))
        return (width, *(width * 2**stage for stage in range(STAGES["swinunetr"] - 1)))

    def _at_least_two_stages(self, patch: Sequence[int]) -> Sizes:
        """Enlarge a patch that no axis of which could be halved; what lies outside a scan is padded."""
        if len(grow_stages(self.spacing, patch, self.axes)[0]) > 1:
            return _triple(patch)
        finest = _similar(self.spacing, self.axes)
        needed = 2 * MIN_EDGE if len(finest) > 1 else 3 * MIN_EDGE
        return _triple([max(size, needed) if axis in finest else size for axis, size in enumerate(patch)])

    def _along_axes(self, value: int) -> Sizes:
        return _triple([value if axis in self.axes else 1 for axis in range(3)])


def grow_stages(
    spacing: Sequence[float], patch: Sequence[int], axes: Sequence[int]
) -> tuple[tuple[Sizes, ...], tuple[Sizes, ...]]:
    """Return the strides and the kernels of a U-Net's stages, finest first.

    An axis is halved while at least `MIN_EDGE` voxels remain and its spacing is less than
    `SIMILAR_SPACING` times the finest's; its kernel is 1 until then and 3 from there on.

    Examples
    --------
    >>> strides, kernels = grow_stages((0.8, 0.8, 5.0), (32, 32, 8), (0, 1, 2))
    >>> strides
    ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))
    >>> kernels
    ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3))
    """
    now_mm, size, kernel = list(spacing), list(patch), [1, 1, 1]
    strides, kernels = [(1, 1, 1)], []
    while halved := _halvable(now_mm, size, axes):
        for axis in _similar(now_mm, axes):
            kernel[axis] = 3
        kernels.append(_triple(kernel))
        strides.append(_triple([2 if axis in halved else 1 for axis in range(3)]))
        for axis in halved:
            now_mm[axis] *= 2
            size[axis] = -(-size[axis] // 2)
    kernels.append(_triple([3 if axis in axes else 1 for axis in range(3)]))
    return tuple(strides), tuple(kernels)


def round_up(sizes: Sequence[int], multiple: Sizes) -> Sizes:
    """Return the next multiples at or above `sizes`."""
    return _triple([-(-size // m) * m for size, m in zip(sizes, multiple, strict=True)])


def _halvable(spacing: Sequence[float], size: Sequence[int], axes: Sequence[int]) -> list[int]:
    large = [axis for axis in axes if size[axis] >= 2 * MIN_EDGE]
    halved = _similar(spacing, large)
    if len(halved) == 1 and size[halved[0]] < 3 * MIN_EDGE:
        return []
    return halved


def _similar(spacing: Sequence[float], axes: Sequence[int]) -> list[int]:
    finest = min((spacing[axis] for axis in axes), default=0.0)
    return [axis for axis in axes if spacing[axis] < SIMILAR_SPACING * finest]


def _triple(values: Sequence[int]) -> Sizes:
    x, y, z = (int(value) for value in values)
    return x, y, z
