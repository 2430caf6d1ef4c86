"""Scans as a bad day makes them, so that an expected Dice is fitted on failures, too.

Held-out cases of one dataset are segmented about equally well; what is left of the differences is mostly how
people draw. No score ranks that, and a fit on it learns nothing about the scan that goes wrong. So held-out
scans are segmented again with their intensities spoilt: noise, blur, contrast, low resolution, gamma, each
drawn several times as strong as training augments. The true mask stays the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from medseg.config import AugmentationConfig
from medseg.data.intensity import change_intensities
from medseg.volume import Volume

SPOILT = AugmentationConfig(
    noise_p=0.4,
    noise_std=1.0,
    blur_p=0.4,
    blur_sigma=(0.5, 3.0),
    brightness_p=0.0,  # normalisation takes it back
    contrast_p=0.4,
    contrast=(0.2, 2.5),
    low_resolution_p=0.4,
    low_resolution=(0.15, 1.0),
    gamma_p=0.4,
    gamma=(0.3, 3.0),
    gamma_inverted_p=0.4,
)
"""Some copies come out unharmed, most worse, some useless; `benchmarks/quality_control` measures what it gives."""


def degrade(volume: Volume, rng: np.random.Generator) -> Volume:
    """Return a copy of a scan with its intensities spoilt at random, on the same grid."""
    image = torch.from_numpy(volume.array.copy())
    axes = [axis for axis, size in enumerate(volume.grid.shape) if size > 1]
    for channel in image:
        mean, sd = float(channel.mean()), float(channel.std()) or 1.0
        channel.sub_(mean).div_(sd)
        changed = change_intensities(channel[None], SPOILT, rng, axes)[0]
        channel.copy_(changed * sd + mean)
    return replace(volume, array=image.numpy())
