"""Clean-up of predicted masks: largest component, smallest volume, holes.

Terms: a *structure* is a target of the label map, a label or a region; a region is treated as the
union of its labels, so that "kidney with its tumour" stays whole. *Components* are 26-connected and
*holes* 6-connected, the dual pair of digital topology: a surface whose voxels touch only by a corner
still closes a hole. In a scan of one slice, holes are those of the slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.boxes import label_boxes, united
from medseg.errors import LabelError
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.measures.structure import TOUCHING
from medseg.rules import PostprocessingRules, StructureRule

UNCHANGED = StructureRule()
"""The rule of every structure that the rules don't name."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A target as the clean-up sees it.

    Attributes
    ----------
    name : of the label or region.
    values : the mask values that belong to it.
    paints : the value written into its filled holes.
    beneath : the value left where it is removed: what the region around it paints, or background.
    """

    name: str
    values: tuple[int, ...]
    paints: int
    beneath: int = 0


def structures_of(labels: LabelMap) -> tuple[Structure, ...]:
    """Return the targets of a label map in painting order: the regions, or the labels."""
    if not labels.regions:
        return tuple(Structure(label.name, (label.value,), label.value) for label in labels.labels)
    found = []
    for region in labels.regions:
        around = [r for r in labels.regions if set(r.values) > set(region.values) and r.paints not in region.values]
        beneath = min(around, key=lambda r: len(r.values)).paints if around else 0
        found.append(Structure(region.name, region.values, region.paints, beneath))
    return tuple(found)


def apply(array: NDArray, grid: Grid, rules: PostprocessingRules, labels: LabelMap) -> NDArray:
    """Return a cleaned copy of a predicted mask; the input stays as it is.

    Components are removed from all structures first, outer regions before inner ones; then holes are
    filled, inner before outer. A voxel that is removed becomes what the surrounding region paints,
    else background. Only background is ever filled.

    Parameters
    ----------
    array : (X, Y, Z) uint8 or uint16 label values.
    grid : of the array; gives the ml of a voxel.
    rules : what to do with which structure.
    labels : the map that names the structures.

    Raises
    ------
    LabelError
        If a rule names a structure that the label map doesn't have.
    """
    structures = structures_of(labels)
    unknown = sorted(set(rules.structures) - {structure.name for structure in structures})
    if unknown:
        raise LabelError(
            f"post-processing rules name {unknown}, which are not among the targets {list(labels.targets)}"
        )
    active = [(s, rules.structures[s.name]) for s in structures if rules.structures.get(s.name, UNCHANGED).is_active]
    cleaned = array.copy(order="K")
    if not active:
        return cleaned
    boxes = label_boxes(array)
    for structure, rule in active:
        box = united(boxes.get(value) for value in structure.values)
        if box is not None:
            _remove_components(cleaned[box], structure, rule, grid.voxel_ml)
    for structure, rule in reversed(active):
        box = united(boxes.get(value) for value in structure.values)
        if box is not None and rule.fill_holes:
            _fill_holes(cleaned[box], structure, array.shape)
    return cleaned


def belongs_to(view: NDArray, structure: Structure) -> NDArray[np.bool_]:
    """Return where `view` holds one of the structure's values."""
    belongs = view == structure.values[0]
    for value in structure.values[1:]:
        belongs |= view == value
    return belongs


def _remove_components(view: NDArray, structure: Structure, rule: StructureRule, voxel_ml: float) -> None:
    """Remove in `view`, the structure's box, the components that the rule doesn't want."""
    if not rule.keep_largest and rule.min_ml <= voxel_ml:
        return
    components, count = _numbered(belongs_to(view, structure), TOUCHING)
    if count == 0:
        return
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    # A hair's breadth of tolerance: 10 voxels of 0.1 ml are 1 ml, whatever the last bit says.
    unwanted = sizes * voxel_ml < rule.min_ml * (1 - 1e-9)
    if rule.keep_largest:
        largest = 1 + int(sizes[1:].argmax())
        unwanted |= np.arange(count + 1) != largest
    unwanted[0] = False
    if unwanted.any():
        view[unwanted[components]] = structure.beneath


def _fill_holes(view: NDArray, structure: Structure, shape: tuple[int, ...]) -> None:
    """Paint in `view`, the structure's box, the background that the structure encloses.

    Every hole lies inside the bounding box, and what reaches the box's side is open. Along an axis
    of one voxel nothing can be enclosed, so that its sides don't count as open.
    """
    outside, count = _numbered(~belongs_to(view, structure))
    is_open = np.zeros(count + 1, dtype=bool)
    is_open[0] = True
    for axis in range(3):
        if shape[axis] > 1:
            is_open[np.take(outside, [0, -1], axis=axis)] = True
    if not is_open.all():
        view[~is_open[outside] & (view == 0)] = structure.paints


def _numbered(inside: NDArray[np.bool_], neighbours: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.int32], int]:
    """Return the components of a mask, numbered from 1, and how many there are; without `neighbours`, 6-connected."""
    from scipy import ndimage  # 0.4 s to import, which a model without rules need not pay

    components, count = ndimage.label(inside, neighbours)
    return components, count
