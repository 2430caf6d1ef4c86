"""Which label a reviewer's segment is: by name, code and identifier together, never by its number.

A segment's *name* is what the reviewer reads, so it decides. Code and identifier must not say something else:
a segment that was called "kidney left" and is now called "kidney right" is refused, because nobody can know
whether the reviewer renamed it or painted it. Slicer gives new segments identifiers of the form that medseg
uses (``Segment_3``), so an identifier alone decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from medseg.io.slicer import Segment, label_terminology, segment_id, segment_name
from medseg.labels import Label, LabelMap
from medseg.review.refusal import Refusal, ReviewError
from medseg.text import printable

NAME_LIMIT = 64
"""Characters of a name that DICOM keeps."""

NO_KIND = "SCT^85756007^Tissue"
"""The type that DICOM and Slicer give to what has none; it identifies nothing."""


def match_segments(
    segments: Sequence[Segment], labels: LabelMap, renamed: Mapping[str, str] | None = None
) -> dict[int, int]:
    """Return the label value of each segment, by the segment's position.

    Parameters
    ----------
    segments : those that have voxels; an empty segment may be called anything.
    labels : of the model.
    renamed : names of segments, and the names of the labels that they are, where a person says so.

    Raises
    ------
    ReviewError
        `UNKNOWN_SEGMENT` if a segment is none of the labels, `RENAMED_SEGMENT` if its name says something else
        than its code or identifier, `REPEATED_SEGMENT` if two segments are one label.
    """
    found: dict[int, int] = {}
    for position, segment in enumerate(segments):
        value = _value_of(segment, labels, renamed or {})
        if value in found.values():
            raise ReviewError(
                Refusal.REPEATED_SEGMENT,
                f"two segments are {_name_of(value, labels)}; unite them, or empty the one that is not meant",
            )
        found[position] = value
    return found


def labels_with_segments(
    segments: Sequence[Segment], labels: LabelMap, renamed: Mapping[str, str] | None = None
) -> set[int]:
    """Return the values of the labels that have a segment of their name, with voxels or without."""
    names = {_folded((renamed or {}).get(segment.name, segment.name)) for segment in segments}
    return {label.value for label in labels.labels if {_folded(label.name), _folded(segment_name(label))} & names}


def _value_of(segment: Segment, labels: LabelMap, renamed: Mapping[str, str]) -> int:
    shown = printable(segment.name)
    stated = renamed.get(segment.name)
    if stated is not None:
        return next(label.value for label in labels.labels if label.name == stated)
    named = [label for label in labels.labels if _folded(segment_name(label)) == _folded(segment.name)]
    others = [label for label in (_by_code(segment, labels), _by_id(segment, labels)) if label]
    expected = ", ".join(label.name for label in labels.labels)
    if not named and not others:
        raise ReviewError(
            Refusal.UNKNOWN_SEGMENT,
            f"the segment {shown!r} is none of the labels ({expected}); give it the name of one, or empty it",
        )
    against = [label for label in others if not named or label.value != named[0].value]
    if against:
        raise ReviewError(
            Refusal.RENAMED_SEGMENT,
            f"the segment {shown!r} has the identity of {against[0].name!r}; give it that name again, "
            "or say which label it is (--renamed)",
        )
    return named[0].value


def _by_code(segment: Segment, labels: LabelMap) -> Label | None:
    """Return the only label with the segment's type and side."""
    wanted = _kind(segment.terminology)
    same = [label for label in labels.labels if wanted and label.code and _kind(label_terminology(label)) == wanted]
    return same[0] if len(same) == 1 else None


def _kind(entry: str) -> tuple[str, ...]:
    """Return scheme and value of type and modifier, without their words, which programs spell differently."""
    parts = entry.split("~")[2:4]
    if len(parts) < 2 or parts[0] in ("^^", NO_KIND):
        return ()
    return tuple(code for part in parts for code in part.split("^")[:2])


def _by_id(segment: Segment, labels: LabelMap) -> Label | None:
    return next((label for label in labels.labels if segment_id(label) == segment.id), None)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name[:NAME_LIMIT]).strip().casefold()


def _name_of(value: int, labels: LabelMap) -> str:
    return next(label.name for label in labels.labels if label.value == value)
