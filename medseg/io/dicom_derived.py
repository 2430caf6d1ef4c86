"""What DICOM objects that medseg derives from a series share: identity, names, codes.

Such an object copies the patient and study of its series, by which a PACS files it: these are the only outputs
of medseg, beside others in their folder, that name a patient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from highdicom import PatientSexValues
from highdicom.sr.coding import CodedConcept
from highdicom.valuerep import check_person_name
from pydicom import Dataset, dcmread
from pydicom.valuerep import DA, TM

from medseg.errors import ReasonCode, SeriesError, UnsupportedScanError
from medseg.io.dicom import open_series
from medseg.io.dicom_series import Series
from medseg.io.terminology import clean_text
from medseg.labels import Code, Label
from medseg.volume import Source

IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""What a derived object must quote of its source; anonymisers blank them."""

COPIED_EVEN_IF_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip
"""May be empty in DICOM but not absent; some exports leave them out."""

CHECKS: Mapping[str, Callable[[str], object]] = {
    "PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM, "PatientSex": PatientSexValues,
    "PatientName": check_person_name,
}  # fmt: skip
"""What fails on values of these that DICOM doesn't have, such as the birth date 00000000 that anonymisers write, or two
names: in a Chinese or Japanese character set that a file does not declare, a byte of one may look like a backslash."""

MANUFACTURER = "medseg"
TEXT_LIMIT = 64
SCHEME_LIMIT = 16
"""Most characters of DICOM's LO and of a coding scheme's designator."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep back the warnings of pydicom and highdicom: they quote names and identifiers of the patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What made a mask.

    Attributes
    ----------
    name, version : of the model, and of medseg.
    """

    name: str
    version: str


def quotable_series(source: Source, purpose: str) -> tuple[Series, list[Dataset]]:
    """Return a series, and the headers of its files in slice order with all that a derived object quotes of them.

    Names, dates, times and a sex that are none of DICOM's are empty, as they may be.

    Parameters
    ----------
    purpose : why it must be a series, to end the message.

    Raises
    ------
    ScanError
        `NOT_DICOM` if the scan is no series, `NO_IDENTITY` if a file lacks an identifier, or has two; else as
        `medseg.io.dicom.open_series`.
    """
    if source.kind != "dicom":
        raise UnsupportedScanError(ReasonCode.NOT_DICOM, f"the scan is no DICOM series, {purpose}")
    series = open_series(source)
    return series, _quotable_images(series.source)


def _quotable_images(source: Source) -> list[Dataset]:
    images: list[Dataset] = []
    for number, path in enumerate(source.files, start=1):
        image = dcmread(path, stop_before_pixels=True, force=True)
        missing = [keyword for keyword in IDENTIFIERS if not isinstance(image.get(keyword) or None, str)]
        if missing:
            raise SeriesError(
                ReasonCode.NO_IDENTITY,
                f"file {number} of {len(source.files)} of the series has no {missing[0]}, which a DICOM result must "
                "quote; export the series again with its identifiers",
            )
        for keyword in COPIED_EVEN_IF_EMPTY:
            if not _can_be_copied(image, keyword):
                setattr(image, keyword, "")
        images.append(image)
    return images


def _can_be_copied(image: Dataset, keyword: str) -> bool:
    try:
        CHECKS.get(keyword, str)(image[keyword].value)
    except (KeyError, TypeError, ValueError):
        return False
    return True


def concept(code: Code) -> CodedConcept:
    """Return a code as highdicom takes it, which has an element for long values: SNOMED CT's have up to 18 digits."""
    return CodedConcept(
        value=clean_text(code.value),
        scheme_designator=clean_text(code.scheme, limit=SCHEME_LIMIT),
        meaning=clean_text(code.meaning, without="\\", limit=TEXT_LIMIT),
    )


def text(words: str) -> str:
    """Return words as DICOM's LO holds them."""
    return clean_text(words, without="\\", limit=TEXT_LIMIT)  # a backslash parts DICOM values


def name_of(label: Label) -> str:
    """Return what a label is called in DICOM."""
    return text(label.name) or f"label_{label.value}"


def made_from(images: Sequence[Dataset], algorithm: Algorithm, *parts: str) -> str:
    """Return what a result's UIDs are made from, beside its kind.

    The phases of a series share its UID; what has images of its own is a result of its own.
    """
    first = images[0]
    return "\n".join([first.SeriesInstanceUID, first.SOPInstanceUID, algorithm.name, algorithm.version, *parts])


def uid(kind: str, name: str) -> str:
    """Return a UID made from a digest (PS3.5 B.2), so that equal content has equal UIDs."""
    number = int.from_bytes(sha256(f"{kind}\n{name}".encode()).digest()[:16], "big")
    return f"2.25.{number}"


def identity(content: str, number: int, name: str, algorithm: Algorithm, *, kind: str = "") -> dict[str, Any]:
    """Return what each derived object says of itself, as the arguments of its class in highdicom.

    Parameters
    ----------
    content : what it holds, for the series' description.
    number : of its series.
    name : what its UIDs are made from (`made_from`).
    kind : begins the kind of its UIDs.
    """
    return {
        "series_instance_uid": uid(f"{kind}series", name),
        "series_number": number,
        "sop_instance_uid": uid(f"{kind}instance", name),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": text(algorithm.name),
        "software_versions": text(algorithm.version),
        "series_description": text(f"AI {content}, research use: {algorithm.name}"),
        "specific_character_set": "ISO_IR 192",  # UTF-8: labels may be in any language
    }
