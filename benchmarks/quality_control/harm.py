"""How scans go wrong in hospitals: each function spoils an image (X, Y, Z) and, where it moves, its true mask.

None of them is what `medseg.quality.degradation` does to the scans that a calibration is fitted on.
`strength` goes from 0, harmless, to 1, useless.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]
Truth = NDArray[np.uint8]
Harm = Callable[[Image, Truth, float, np.random.Generator], tuple[Image, Truth]]


def window(image: Image) -> tuple[float, float]:
    low, high = np.percentile(image, [1, 99])
    return float(low), float(max(high - low, 1e-6))


def along(axis: int, values: NDArray) -> NDArray:
    shape = [1, 1, 1]
    shape[axis] = -1
    return values.reshape(shape)


def noise(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """Rician noise, as of a magnitude image."""
    low, width = window(image)
    real, imaginary = rng.normal(0, 0.35 * strength * width, (2, *image.shape))
    return low + np.hypot(image + real - low, imaginary), truth


def thick_slices(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    return ndimage.gaussian_filter1d(image, (1 + 5 * strength) / 1.5, axis=int(rng.integers(3))), truth


def motion(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """Ghosts and smear: lines of k-space with wrong amplitude and phase."""
    axis = int(rng.integers(3))
    lines = np.fft.fft(image, axis=axis)
    count = image.shape[axis]
    waves = 1 + 0.9 * strength * np.sin(np.arange(count) * 2 * np.pi / rng.integers(2, 6))
    phases = np.exp(1j * rng.normal(0, 1.2 * strength, count))
    spoilt = lines * along(axis, waves * phases)
    mean = tuple(0 if a == axis else slice(None) for a in range(3))
    spoilt[mean] = lines[mean]
    return np.abs(np.fft.ifft(spoilt, axis=axis)), truth


def bias_field(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """A coil that sees one side up to 36 times as bright as the other."""
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    low, _ = window(image)
    slope = sum(part * place for part, place in zip(direction, places, strict=True))
    return low + (image - low) * np.exp(1.8 * strength * slope), truth


def inverted(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """Dark where it was bright: another sequence."""
    low, width = window(image)
    level = np.clip((image - low) / width, 0, 1)
    share = strength if strength < 0.9 else 1.0
    return low + width * ((1 - share) * level + share * (1 - level)), truth


def other_contrast(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """Tissues in another order of brightness: another sequence or contrast agent."""
    low, width = window(image)
    level = np.clip((image - low) / width, 0, 1)
    return low + width * ((1 - strength) * level + strength * np.abs(np.sin(np.pi * 1.5 * level))), truth


def shifted(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """A wrong rescale intercept."""
    return image + rng.choice([-1, 1]) * 0.6 * strength * window(image)[1], truth


def cut(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """A field of view that misses up to 70 % of the structures."""
    found, axis = np.argwhere(truth > 0), int(rng.integers(3))
    low, high = found[:, axis].min(), found[:, axis].max()
    lost = round((high - low) * 0.7 * strength)
    if rng.random() < 0.5:
        kept = slice(min(low + lost, image.shape[axis] - 9), None)
    else:
        kept = slice(None, max(high - lost + 1, 9))
    box = tuple(kept if a == axis else slice(None) for a in range(3))
    return image[box], truth[box]


def mirrored(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """A wrong orientation in the header, along any axis."""
    axis = int(rng.integers(3))
    return np.flip(image, axis), np.flip(truth, axis)


def lost_slices(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """Slices without signal."""
    axis = int(rng.integers(3))
    lost = rng.random(image.shape[axis]) < 0.5 * strength
    return np.where(along(axis, lost), image.min(), image), truth


def metal(image: Image, truth: Truth, strength: float, rng: np.random.Generator) -> tuple[Image, Truth]:
    """Streaks from a point."""
    centre = [int(rng.integers(n)) for n in image.shape]
    x, y, _ = np.meshgrid(*(np.arange(n) - c for n, c in zip(image.shape, centre, strict=True)), indexing="ij")
    streaks = np.sin(np.arctan2(y, x) * rng.integers(4, 9)) * np.exp(-np.hypot(x, y) / (0.4 * max(image.shape)))
    return image + window(image)[1] * 1.2 * strength * streaks, truth


HARMS: tuple[Harm, ...] = (
    noise, thick_slices, motion, bias_field, inverted, other_contrast, shifted, cut, mirrored, lost_slices, metal,
)  # fmt: skip
