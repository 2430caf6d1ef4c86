"""What is noticed about a scan while it is read, and what the policy makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medseg.config import IngestConfig
from medseg.errors import GeometryError, ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.volume import Repair

CT = "CT"

AIR_HU = -500.0
"""A CT without any value below this has no air in it, or its values are not HU."""

TISSUE_HU = -300.0
"""Above this is body, couch or clothing: lung and fat lie on either side."""

BORDER_SHARE = 0.25
"""Part of a slice's border that must be tissue for the body to be cut: couch and head rest cover less."""


@dataclass(slots=True)
class Findings:
    """Flags and repairs of one scan.

    Attributes
    ----------
    policy : what is done about each fault.
    flags : reason codes noticed, each once, in order.
    repairs : what was done about some of them.
    """

    policy: IngestConfig
    flags: list[ReasonCode] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)

    def note(self, code: ReasonCode, message: str, repair: str = "") -> None:
        """Flag a fault, with the words of its repair if there is one.

        Raises
        ------
        ScanError
            With `message`, if the policy rejects the fault.
        """
        if self.policy.choice(code) == "reject":
            raise ScanError(code, message)
        if code not in self.flags:
            self.flags.append(code)
        if repair:
            self.repairs.append(Repair(code, repair))

    def check_axes(self, grid: Grid, subject: str) -> None:
        """Note that a grid's axes are not perpendicular, unless a tilt that was noted says why.

        Parameters
        ----------
        subject : begins messages: what has the axes, and "has".

        Raises
        ------
        GeometryError
            Also if they are so far from it that the straightened scan would be many times as large.
        """
        if grid.is_orthogonal:
            return
        try:
            grid.straightened()
        except GeometryError as error:
            raise GeometryError(error.code, f"{subject} {error}") from None
        if ReasonCode.GANTRY_TILT in self.flags:
            return
        cosines = np.abs(np.triu(grid.directions.T @ grid.directions, 1))
        angle = np.degrees(np.arcsin(min(1.0, cosines.max())))
        self.note(
            ReasonCode.NONORTHONORMAL_AFFINE,
            f"{subject} axes that are {angle:.2g} degrees from perpendicular",
            f"kept the voxels where they are, sheared by {angle:.2g} degrees; networks see them straight to half a "
            "voxel",
        )

    def check_values(self, array: NDArray[np.float32], modality: str, name: str) -> None:
        """Note what a scan's values say against it.

        Parameters
        ----------
        array : (X, Y, Z), finite; Z from slice to slice.
        modality : "CT" for HU, anything else for values of no fixed scale.
        name : of the scan, to begin messages.
        """
        low, high = array.min(axis=(0, 1)), array.max(axis=(0, 1))
        self._check_blank(np.flatnonzero(low != high), len(low), name)
        if modality == CT:
            self._check_hounsfield(array, float(low.min()), float(high.max()), name)

    def _check_blank(self, drawn: NDArray[np.int64], slices: int, name: str) -> None:
        """Note slices of one value; at the ends they are common, as padding."""
        if not len(drawn):
            self.note(ReasonCode.EMPTY, f"{name} has one value everywhere")
        elif drawn[-1] - drawn[0] + 1 > len(drawn):
            blank = next(number for number, index in enumerate(drawn, start=drawn[0]) if number != index)
            self.note(ReasonCode.EMPTY, f"slice {blank + 1} of {slices} of {name} is empty between slices that are not")

    def _check_hounsfield(self, array: NDArray[np.float32], low: float, high: float, name: str) -> None:
        if low > AIR_HU or high < 0:
            self.note(
                ReasonCode.HU_SUSPECT,
                f"{name} has values from {low:.4g} to {high:.4g}; a CT in HU has air near -1000 and tissue above 0",
            )
            return
        sides = [array[0], array[-1], array[:, 0], array[:, -1]]
        tissue = sum(np.count_nonzero(side > TISSUE_HU, axis=0) for side in sides)
        cut = np.count_nonzero(tissue > BORDER_SHARE * 2 * sum(array.shape[:2]))
        if 2 * cut > array.shape[2]:
            self.note(ReasonCode.FOV_TRUNCATED, f"the field of view of {name} cuts the body in {cut} slices")
