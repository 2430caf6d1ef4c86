"""Studies of several series that differ in what rules look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.volume import Volume

AXIAL = np.diag([-1.0, -1, 1])
SAGITTAL = np.array([[0.0, 0, -1], [-1, 0, 0], [0, -1, 0]])
CORONAL = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def tilted(degrees: float) -> np.ndarray:
    """Return axial directions turned about the left-right axis."""
    angle = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return turn @ AXIAL


def write_study(folder: Path, name: str, study: str = "1.2.3", **tags: object) -> Path:
    """Write one series of a study; `tags`: DICOM keywords, and directions, slices, spacing (mm)."""
    directions, slices = tags.pop("directions", AXIAL), tags.pop("slices", 12)
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([1, 1, tags.pop("spacing", 2.0)])
    array = np.random.default_rng(len(name)).integers(-1000, 500, (1, 6, 5, slices)).astype(np.float32)
    source = write_series(Volume(array, Grid((6, 5, slices), affine)), folder / name, description=name)
    for path in source.files:
        data = pydicom.dcmread(path)
        data.StudyInstanceUID = study
        for keyword, value in tags.items():
            setattr(data, keyword, value)
        data.save_as(path)
    return folder / name
