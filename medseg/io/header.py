"""What can be said of a scan without its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from medseg.errors import ReasonCode
from medseg.geometry import Grid
from medseg.volume import Repair


@dataclass(frozen=True, slots=True)
class ScanHeader:
    """A scan's place in space and what was noticed about it, from its headers alone.

    Attributes
    ----------
    grid : the grid that reading the scan will give.
    channels : number of channels.
    modality : DICOM modality word such as "CT"; "" where unknown (NIfTI).
    flags : reason codes noticed that do not refuse the scan.
    repairs : what reading will do about some of them.
    """

    grid: Grid
    channels: int = 1
    modality: str = ""
    flags: tuple[ReasonCode, ...] = ()
    repairs: tuple[Repair, ...] = ()
