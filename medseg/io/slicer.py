"""3D Slicer's segmentation files, ``.seg.nrrd``: masks with names, colours, terminology and review status.

Such a file opens in 3D Slicer as a segmentation without questions, and keeps sheared grids. The rules are
those of vtkMRMLSegmentationStorageNode.cxx (Slicer 583e9b3, 2026-08-21). What is written depends on mask
and labels alone, never on the clock: equal masks give equal files.

Written are masks of one layer on the whole grid. Read is also what Slicer makes of them: files cropped to
the segments, and several layers where segments overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import OutputError, ReasonCode, ScanError, UnsupportedScanError
from medseg.geometry import Grid
from medseg.io.files import atomic_file, read_back_error
from medseg.io.nrrd import PIXEL_TYPES, parse_nrrd, write_nrrd
from medseg.io.terminology import category_of, clean_text, side_of, type_of
from medseg.labels import Code, Label, LabelMap
from medseg.volume import Mask

CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
REGION_CONTEXT = "Anatomic codes - DICOM master list"
STATUS = "Segmentation.Status"
TERMINOLOGY = "TerminologyEntry"
NOT_STARTED, COMPLETED = "notstarted", "completed"
"""Review status of a segment that nobody has looked at, and of one that is done; between them are inprogress and
flagged."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a segmentation file.

    Attributes
    ----------
    id : unique in the file; medseg writes ``Segment_<value>``.
    name : as shown.
    value : in its layer of the mask.
    colour : RGB, 0 to 255.
    status : review status; "" where none is stated.
    terminology : Slicer's terminology entry, parts joined by ``~``; "" where none is stated.
    layer : number of its layer; all are in layer 0 unless segments overlap.
    tags : what else is said of it; Slicer keeps such tags when it saves.
    """

    id: str
    name: str
    value: int
    colour: tuple[int, int, int]
    status: str = ""
    terminology: str = ""
    layer: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What a segmentation file holds.

    Attributes
    ----------
    layers : (L, X, Y, Z) uint8 or uint16; the segments of one layer don't overlap.
    grid : of the file, which Slicer may have cropped.
    segments : in the file's order.
    """

    layers: NDArray[np.uint8] | NDArray[np.uint16]
    grid: Grid
    segments: tuple[Segment, ...]

    @property
    def mask(self) -> Mask:
        """The only layer as a mask; raises `UnsupportedScanError` (`NOT_3D`) where segments overlap."""
        if len(self.layers) != 1:
            raise UnsupportedScanError(
                ReasonCode.NOT_3D,
                f"the segments overlap: they lie in {len(self.layers)} layers; a mask has one",
            )
        return Mask(self.layers[0], self.grid)

    def region(self, segment: Segment) -> NDArray[np.bool_]:
        """Return which voxels (X, Y, Z) of the file's grid belong to a segment."""
        return self.layers[segment.layer] == segment.value


def write_seg_nrrd(path: Path, mask: Mask, labels: LabelMap, tags: Mapping[str, str] | None = None) -> None:
    """Write a mask as a segmentation, read it back and compare.

    Every label becomes a segment, found or not, so that a reviewer can draw what the model missed. Each
    covers the whole grid: Slicer would clip a segment at a smaller extent.

    Parameters
    ----------
    path : target, ending in .seg.nrrd, by which Slicer knows a segmentation.
    mask : on any grid, sheared ones included.
    labels : names, colours and codes of its values.
    tags : more to say of every segment; letters, digits, ``._-`` and spaces.

    Raises
    ------
    OutputError
        If the file can't be written, or what was written is not what was meant.
    """
    clean = {key: clean_text(value, without="|:") for key, value in (tags or {}).items()}
    segments = tuple(_segment(label, clean) for label in labels.labels)
    with atomic_file(path) as temporary:
        write_nrrd(temporary, mask.array, mask.grid, _segment_pairs(mask.grid, segments))
        try:
            written = read_seg_nrrd(temporary)
        except ScanError as error:
            raise OutputError(f"{path} can't be read back ({error}); check the disk and try again") from None
        same = written.segments == segments and np.array_equal(written.mask.array, mask.array)
        if not (same and written.grid.matches(mask.grid)):
            raise read_back_error(path)


def read_seg_nrrd(path: Path) -> Segmentation:
    """Read a segmentation file.

    Raises
    ------
    ScanError
        `NOT_A_SCAN` for other content, `UNREADABLE` for damaged or contradictory files, `NOT_3D` for what has
        neither three dimensions nor a list of layers before them, `UNSUPPORTED_PIXELS`, `BAD_ORIENTATION`,
        `TRUNCATED`.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{path.name} can't be read: {error.strerror}") from None
    file = parse_nrrd(raw, path.name)
    fields = file.fields
    has_layers = fields.get("dimension") == "4" and fields.get("kinds", "").split()[:1] == ["list"]
    if fields.get("dimension") != "3" and not has_layers:
        raise UnsupportedScanError(
            ReasonCode.NOT_3D,
            f"{path.name} has {fields.get('dimension')} dimensions and no list of layers: it is no mask",
        )
    try:
        sizes = [int(size) for size in fields["sizes"].split()]
        count, x, y, z = sizes if has_layers else (1, *sizes)
        grid = file.grid((x, y, z))
        dtype = np.dtype(PIXEL_TYPES[fields["type"]])
        segments = _segments(fields, count)
    except KeyError as error:
        raise UnsupportedScanError(
            ReasonCode.UNSUPPORTED_PIXELS, f"{path.name}: {error} is missing or not what a segmentation file has"
        ) from None
    except (ValueError, IndexError, OverflowError):
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{path.name} has a header that contradicts itself") from None
    if fields.get("endian") == "big":
        dtype = dtype.newbyteorder(">")
    needed = int(np.prod([count, *grid.shape], dtype=object))
    values = _labels(file.voxels(needed, dtype), path.name)
    return Segmentation(values.reshape((count, *grid.shape), order="F"), grid, segments)


def segment_name(label: Label) -> str:
    """Return what a label's segment is called."""
    return clean_text(label.name) or f"label_{label.value}"


def segment_id(label: Label) -> str:
    """Return the identifier of a label's segment."""
    return f"Segment_{label.value}"


def label_terminology(label: Label) -> str:
    """Return a label's terminology entry; "" if it has no code and is no lesion."""
    has_terminology = label.code or label.lesion
    return terminology_entry(category_of(label), type_of(label), side_of(label)) if has_terminology else ""


def terminology_entry(category: Code, kind: Code, modifier: Code | None) -> str:
    """Return Slicer's terminology entry of a segment: contexts and codes, joined by ``~``."""
    codes = map(_code, (category, kind, modifier))
    return "~".join([CONTEXT, *codes, REGION_CONTEXT, _code(None), _code(None)])


def _segment(label: Label, tags: Mapping[str, str]) -> Segment:
    return Segment(
        id=segment_id(label),
        name=segment_name(label),
        value=label.value,
        colour=label.colour,
        status=NOT_STARTED,
        terminology=label_terminology(label),
        tags=tags,
    )


def _code(code: Code | None) -> str:
    texts = (code.scheme, code.value, code.meaning) if code else ("", "", "")
    return "^".join(clean_text(text, without="^~|:") for text in texts)


def _segment_pairs(grid: Grid, segments: Sequence[Segment]) -> dict[str, str]:
    """Return the header's key/value pairs that say of segments what `Segment` holds, each on the whole grid."""
    extent = " ".join(f"0 {size - 1}" for size in grid.shape)
    pairs = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, segment in enumerate(segments):
        tags = {STATUS: segment.status, TERMINOLOGY: segment.terminology, **segment.tags}
        pairs |= {
            f"Segment{number}_ID": segment.id,
            f"Segment{number}_Name": segment.name,
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_Color": " ".join(f"{part / 255:.6g}" for part in segment.colour),
            f"Segment{number}_ColorAutoGenerated": "0",
            f"Segment{number}_LabelValue": str(segment.value),
            f"Segment{number}_Layer": "0",
            f"Segment{number}_Extent": extent,
            f"Segment{number}_Tags": "".join(f"{key}:{value}|" for key, value in tags.items() if value),
        }
    return pairs


def _segments(fields: Mapping[str, str], layers: int) -> tuple[Segment, ...]:
    """Return the segments; as in Slicer, one without a layer is in that of its own number, with the value 1."""
    segments: list[Segment] = []
    while (start := f"Segment{len(segments)}_") + "ID" in fields:
        red, green, blue = (round(float(part) * 255) for part in fields[start + "Color"].split())
        tags = dict(tag.split(":", 1) for tag in fields.get(start + "Tags", "").split("|") if ":" in tag)
        layer = int(fields.get(start + "Layer", len(segments)))
        if not 0 <= layer < layers:
            raise ValueError(layer)
        segments.append(
            Segment(
                id=fields[start + "ID"],
                name=fields[start + "Name"],
                value=int(fields.get(start + "LabelValue", 1)),
                colour=(red, green, blue),
                status=tags.pop(STATUS, ""),
                terminology=tags.pop(TERMINOLOGY, ""),
                layer=layer,
                tags=tags,
            )
        )
    return tuple(segments)


def _labels(values: NDArray, name: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return values as a mask holds them, in the machine's byte order."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnsupportedScanError(
            ReasonCode.UNSUPPORTED_PIXELS, f"{name} holds the value {low if low < 0 else high}; a mask's are 0 to 65535"
        )
    return values.astype(np.uint8) if values.dtype.itemsize == 1 else values.astype(np.uint16)
