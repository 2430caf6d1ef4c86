"""Smooth random fields that are defined at every point of space, without a lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """A sum of sines with random directions, wavelengths and phases.

    A lattice of random numbers would have an extent and an interpolation of its own; a sum of sines is
    known exactly everywhere, so that two scanners that look at the same point see the same body.

    Attributes
    ----------
    vectors : (K, 3) wave vectors, radians a mm.
    phases : (K, 1) radians.
    amplitudes : (D, K), one row for each component of the field.
    """

    vectors: Array
    phases: Array
    amplitudes: Array

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        wavelength_mm: tuple[float, float],
        amplitude: float,
        *,
        components: int = 1,
        count: int = 8,
    ) -> Waves:
        """Draw a field whose components have the standard deviation `amplitude`.

        Parameters
        ----------
        wavelength_mm : shortest and longest wavelength.
        amplitude : standard deviation over space, in the unit of the field.
        components : number of components, 3 for a displacement.
        count : number of waves.
        """
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        vectors = directions * (2 * np.pi / rng.uniform(*wavelength_mm, size=(count, 1)))
        weights = rng.normal(size=(components, count))
        weights *= amplitude * np.sqrt(2) / np.linalg.norm(weights, axis=1, keepdims=True)
        phases = rng.uniform(0, 2 * np.pi, size=(count, 1))
        return cls(vectors.astype(np.float32), phases.astype(np.float32), weights.astype(np.float32))

    def __call__(self, points: Array) -> Array:
        """Return the field (D, N) at `points` (3, N), mm."""
        return self.amplitudes @ np.sin(self.vectors @ points + self.phases)
