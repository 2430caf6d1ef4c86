"""What tests of DICOM results share: labels, masks, and series in every direction."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from medseg.geometry import Grid
from medseg.io.dicom_derived import Algorithm
from medseg.labels import LabelMap

LABELS = LabelMap.parse(
    {
        "labels": [
            {"value": 3, "name": "kidney_right", "code": {"value": "64033007", "meaning": "Kidney"}},
            {"value": 4, "name": "absent"},
            {"value": 7, "name": "Läsion", "lesion": True, "colour": (250, 10, 20)},
            {"value": 200, "name": "spleen"},
        ]
    }
)
ALGORITHM = Algorithm("liver model", "1.0 abcdef")
SHAPE = (12, 10, 8)
TURN = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
GEOMETRIES = {
    "axial": np.diag([-1.0, -1, 1]),
    "sagittal": np.array([[0, 0, -1.0], [-1, 0, 0], [0, -1, 0]]),
    "coronal": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
    "oblique": TURN,
    "descending z": np.diag([-1.0, -1, -1]),
    "negated cosines": np.diag([1.0, 1, -1]),
}


def grid_of(directions: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([1.0, 1.5, 2.5])
    affine[:3, 3] = 9.5, -12.25, 101
    return Grid(shape, affine)


def blobs(seed: int = 0) -> np.ndarray:
    """Two parts of one label with empty slices between, a lesion, and single voxels."""
    rng = np.random.default_rng(seed)
    array = np.zeros(SHAPE, np.uint8)
    array[2:6, 3:5, 1:3] = array[2:9, 2:8, 6] = 3
    array[3:5, 4, 2] = 7
    array[rng.integers(0, 12, 9), rng.integers(0, 10, 9), 6] = 200
    return array
