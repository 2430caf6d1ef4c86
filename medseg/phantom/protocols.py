"""How hospitals scan: axial, coronal, oblique, thick slices, a small field of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from medseg.geometry import Grid
from medseg.phantom.acquisition import Phantom, Scanner, acquire
from medseg.phantom.organs import draw_body

DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
"""World direction (RAS+) of each anatomical letter."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a kind of examination lays its voxels.

    Attributes
    ----------
    name : in words.
    shape : voxels along the index axes.
    spacing : mm along the index axes.
    axcodes : anatomical direction of each index axis before it is tilted.
    degrees : largest tilt about the world's x, y and z axes.
    centre : world position of the middle of the scan, mm.
    """

    name: str
    shape: tuple[int, int, int] = (92, 76, 50)
    spacing: tuple[float, float, float] = (4.0, 4.0, 5.0)
    axcodes: str = "RAS"
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre: tuple[float, float, float] = (0.0, 0.0, 5.0)

    def draw(self, rng: np.random.Generator) -> Grid:
        """Return a grid of this kind: field of view and tilt differ a little from scan to scan."""
        tilt = Rotation.from_euler("xyz", np.array(self.degrees) * rng.uniform(0.7, 1.0, size=3), degrees=True)
        in_plane, between = rng.uniform(0.96, 1.04, size=2)
        steps = np.array(self.spacing) * (in_plane, in_plane, between)
        axes = np.array([DIRECTIONS[code] for code in self.axcodes], dtype=np.float64).T
        affine = np.eye(4)
        affine[:3, :3] = tilt.as_matrix() @ axes * steps
        affine[:3, 3] = np.array(self.centre) - affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return Grid(self.shape, affine)


NIFTI_PROTOCOLS = (
    Protocol("axial"),
    Protocol("axial, to the left and back", axcodes="LPS"),
    Protocol("oblique", degrees=(12, -10, 16)),
    Protocol("axial, thick slices", (104, 86, 32), (3.6, 3.6, 8.0), "LAS"),
    Protocol("coronal", (92, 60, 64), (4.0, 4.2, 4.8), "LIP"),
    Protocol("axial, small field of view", (78, 64, 40), (3.8, 3.8, 5.0), "RPI", centre=(12.0, -4.0, 18.0)),
)

DICOM_PROTOCOLS = (
    Protocol("axial", axcodes="LPS"),
    Protocol("oblique", axcodes="LPS", degrees=(14, 8, -6)),
    Protocol("axial, thick slices", (104, 86, 32), (3.6, 3.6, 8.0), "LPS"),
)
"""Rows to the patient's left, columns to the back, slices to the head."""


def draw_scan(protocol: Protocol, seed: tuple[int, ...]) -> Phantom:
    """Draw a patient and scan them once; noise and sharpness differ from scan to scan."""
    rng = np.random.default_rng((*seed, 1))
    grid = protocol.draw(rng)
    scanner = Scanner(blur_mm=rng.uniform(1.0, 1.8), noise_hu=rng.uniform(6, 11), grain_mm=rng.uniform(1.5, 2.2))
    return acquire(draw_body((*seed, 2)), grid, scanner, (*seed, 3))
