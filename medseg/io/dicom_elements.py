"""The elements of a DICOM header that are looked at, and their values.

Values are taken from pydicom's raw elements: converting all of them through its value types costs more
than parsing the file, and its warnings quote values, which may name a patient.
"""

from __future__ import annotations

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag

PHASE_KEYWORDS = (
    "ImageType", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "TriggerTime",
    "AcquisitionNumber", "ContentTime",
)  # fmt: skip
"""What may tell apart several images at one position, the most meaningful first."""

KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "ImagerPixelSpacing",
    "SeriesDescription", "ConvolutionKernel", "ContrastBolusAgent", *PHASE_KEYWORDS,
)  # fmt: skip
TAGS = {keyword: Tag(tag_for_keyword(keyword) or 0) for keyword in KEYWORDS}


class Elements:
    """Typed access to raw elements of a dataset, empty values counting as absent."""

    def __init__(self, dataset: Dataset) -> None:
        self.elements = dict(dataset.items())

    def value(self, keyword: str) -> bytes:
        """Return the value's bytes, b"" where the element is absent or empty."""
        value = getattr(self.elements.get(TAGS[keyword]), "value", None)
        return value if isinstance(value, bytes) else b""

    def text(self, keyword: str) -> str:
        """Return the value as text without padding."""
        return self.value(keyword).decode("latin-1").strip(" \0")

    def free_text(self, keyword: str) -> str:
        """Return text that people wrote: UTF-8 where it is that, else Latin-1, whatever the file says of itself."""
        try:
            return self.value(keyword).decode().strip(" \0")
        except UnicodeDecodeError:
            return self.text(keyword)

    def numbers(self, keyword: str) -> tuple[float, ...] | None:
        """Return a decimal string's numbers; None where it is absent or not made of finite numbers."""
        try:
            values = tuple(float(part) for part in self.text(keyword).split("\\"))
        except ValueError:
            return None
        return values if all(np.isfinite(values)) else None

    def number(self, keyword: str, default: float) -> float:
        """Return a single number."""
        return (self.numbers(keyword) or (default,))[0]

    def integer(self, keyword: str) -> int:
        """Return an unsigned short, 0 where it is absent."""
        value = self.value(keyword)[:2]
        little = getattr(self.elements.get(TAGS[keyword]), "is_little_endian", True)
        return int.from_bytes(value, "little" if little else "big")
