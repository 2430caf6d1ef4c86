"""How much of a training device a network needs, in nnU-Net's currency: feature-map values.

The count is that of the convolutions' outputs of one patch. nnU-Net found by trial which count fills
which GPU (nnunetv2 2.8.1, ``UNet_reference_val_*``): its figures for 8 GB are scaled linearly, which
holds from a few GB on, where the weights no longer matter.
"""

from __future__ import annotations

import math

from medseg.plan import NetworkPlan, Sizes

REFERENCE_GB = 8.0
"""Device memory that the two reference budgets stand for, GB."""

REFERENCE_VALUES = {3: 560e6, 2: 85e6}
"""Feature-map values of one patch that fill `REFERENCE_GB` at the reference batch, by dimensions."""

REFERENCE_BATCH = {3: 2, 2: 12}
"""Batch at which the reference holds, by dimensions."""

VALUES_PER_VOXEL = {
    ("segresnet", 3): (0.0, 7.7), ("segresnet", 2): (0.0, 12.5),
    ("vnet", 3): (0.0, 9.1), ("vnet", 2): (0.0, 14.7),
    ("swinunetr", 3): (293.0, 10.6), ("swinunetr", 2): (84.0, 17.5),
}  # fmt: skip
"""Values a voxel of MONAI's networks, (constant, for each feature map of the first stage), by dimensions.

Measured with MONAI 1.6.1 and torch 2.13 at 64³ and 256²: values that autograd keeps for the backward
pass, divided by 1.97, which is what the same measurement gives for each value that nnU-Net counts
in a U-Net."""


def budget(memory_gb: float, dimensions: int) -> float:
    """Return the feature-map values of a whole batch that fit a device of `memory_gb` GB."""
    return REFERENCE_VALUES[dimensions] * REFERENCE_BATCH[dimensions] * memory_gb / REFERENCE_GB


def needed_gb(values: float, dimensions: int) -> float:
    """Return the device memory, GB, at which `values` feature-map values of a batch just fit."""
    return values / budget(1.0, dimensions)


def feature_values(network: NetworkPlan, patch: Sizes, outputs: int) -> float:
    """Return the feature-map values of one patch.

    Parameters
    ----------
    network : topology, finest stage first.
    patch : voxels along x, y, z; 1 across the slices of a 2D network.
    outputs : the network's output channels.
    """
    if network.name == "unet":
        return _unet_values(network, patch, outputs)
    dimensions = sum(size > 1 for size in network.divisor)
    constant, per_feature = VALUES_PER_VOXEL[network.name, dimensions]
    return math.prod(patch) * (constant + per_feature * network.features[0])


def _unet_values(network: NetworkPlan, patch: Sizes, outputs: int) -> float:
    """Count the encoder's convolutions, and the decoder's with its upsampling and its outputs."""
    voxels, total = float(math.prod(patch)), 0.0
    # a residual block's projection is one more feature map than its convolutions
    encoder = network.convolutions + (1 if network.residual else 0)
    for stage, (features, stride) in enumerate(zip(network.features, network.strides, strict=True)):
        voxels /= math.prod(stride)
        total += encoder * features * voxels
        if stage < len(network.features) - 1:
            total += (network.convolutions + 1) * features * voxels
            total += outputs * voxels if network.deep_supervision or stage == 0 else 0
    return total
