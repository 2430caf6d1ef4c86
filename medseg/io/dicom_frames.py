"""Planes of enhanced multi-frame DICOM files, as slice headers like those of single-frame files.

Every check of `medseg.io.dicom_series` then holds for both kinds. An attribute of a frame stands in its
own functional group or in the group shared by all frames (PS3.3 C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.errors import ReasonCode, UnsupportedScanError
from medseg.io.dicom_headers import CT, SliceHeader, is_foreign_scale

MAX_FRAMES = 100_000

FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")


def frame_headers(file: SliceHeader) -> tuple[SliceHeader, ...]:
    """Return a header for every frame of a multi-frame file.

    Parameters
    ----------
    file : header of the whole file.

    Raises
    ------
    UnsupportedScanError
        `UNREADABLE` if the functional groups are missing or fewer than the frames.
    """
    try:
        dataset = dcmread(file.path, stop_before_pixels=True, force=True)
        file = replace(file, contrast=file.contrast or bool(dataset.get("ContrastBolusAgentSequence")))
        shared = dataset.SharedFunctionalGroupsSequence[0]
        groups = dataset.PerFrameFunctionalGroupsSequence
        if len(groups) == file.frames <= MAX_FRAMES:
            return tuple(_frame(file, number, group, shared) for number, group in enumerate(groups))
    except Exception as error:  # as for any header: whatever a hostile file breaks ends in one sentence
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"a multi-frame DICOM file has damaged functional groups ({type(error).__name__})"
        ) from None
    raise UnsupportedScanError(
        ReasonCode.UNREADABLE, f"a multi-frame DICOM file describes {len(groups)} frames and claims {file.frames}"
    )


def _frame(file: SliceHeader, number: int, group: Dataset, shared: Dataset) -> SliceHeader:
    measures = _macro("PixelMeasuresSequence", group, shared)
    spacing = _floats(measures.get("PixelSpacing"))
    position = _floats(_macro("PlanePositionSequence", group, shared).get("ImagePositionPatient"))
    orientation = _floats(_macro("PlaneOrientationSequence", group, shared).get("ImageOrientationPatient"))
    transform = _macro("PixelValueTransformationSequence", group, shared)
    slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
    foreign = file.modality == CT and is_foreign_scale(str(transform.get("RescaleType") or ""))
    thickness = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0.0
    return replace(
        file,
        frame=number,
        spacing=spacing if len(spacing) == 2 and min(spacing) > 0 else None,
        position=position if len(position) == 3 else None,
        orientation=orientation if len(orientation) == 6 else None,
        thickness=abs(float(thickness)),
        slice_thickness=abs(float(measures.get("SliceThickness") or 0.0)),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        rescaled=slope is not None and intercept is not None,
        doubts=(ReasonCode.HU_SUSPECT,) if foreign else file.doubts,
        phase=_phase(file, group, shared),
    )


def _phase(file: SliceHeader, group: Dataset, shared: Dataset) -> tuple[str, ...]:
    kind = next((macro for name in FRAME_TYPES if (macro := _macro(name, group, shared))), Dataset())
    content = _macro("FrameContentSequence", group, shared)
    return (
        "\\".join(map(str, kind.get("FrameType") or file.phase[0].split("\\"))),
        str(content.get("StackID", "")),
        str(_macro("MREchoSequence", group, shared).get("EffectiveEchoTime", "")),
        str(content.get("TemporalPositionIndex", "")),
        str(_macro("MRDiffusionSequence", group, shared).get("DiffusionBValue", "")),
        str(_macro("CardiacSynchronizationSequence", group, shared).get("NominalCardiacTriggerDelayTime", "")),
        str(content.get("FrameAcquisitionNumber", "")),
        str(content.get("FrameAcquisitionDateTime", "")),
    )


def _macro(name: str, group: Dataset, shared: Dataset) -> Dataset:
    """Return the first item of a functional group macro, of the frame or shared; empty where absent."""
    sequence = group.get(name) or shared.get(name)
    return sequence[0] if sequence else Dataset()


def _floats(values: Sequence[Any] | None) -> tuple[Any, ...]:
    return tuple(float(value) for value in values or ())
