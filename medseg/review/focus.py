"""Where a reviewer looks first: at the middle of the largest lesion, else of the largest structure."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medseg.boxes import label_boxes
from medseg.labels import LabelMap
from medseg.measures.structure import TOUCHING
from medseg.volume import Mask

Position = tuple[float, float, float]


def focus_of(mask: Mask, labels: LabelMap) -> Position:
    """Return a place inside the largest lesion, or else structure, in world mm (RAS+).

    It is the voxel of the largest connected part (26 neighbours) that is nearest to the part's centre of mass,
    because the centre of a bent structure may lie outside of it. Without any structure: the scan's middle.
    """
    boxes = label_boxes(mask.array)
    lesions = [label.value for label in labels.labels if label.lesion and label.value in boxes]
    values = lesions or [value for value in labels.values if value in boxes]
    best, index = 0, (np.array(mask.grid.shape) - 1) / 2
    for value in values:
        box = boxes[value]
        numbers, _ = ndimage.label(mask.array[box] == value, TOUCHING)
        sizes = np.bincount(numbers.ravel())[1:]
        if sizes.max() <= best:
            continue
        best = int(sizes.max())
        voxels = np.argwhere(numbers == sizes.argmax() + 1)
        nearest = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
        index = nearest + [part.start for part in box]
    x, y, z = (mask.grid.affine @ [*index, 1.0])[:3].tolist()
    return round(x, 3), round(y, 3), round(z, 3)
