"""Names and colours of labels beside and inside masks, for the programs that open them.

* ``labels.csv``: 3D Slicer's colour table with terminology; also readable by people.
* ``labels.ctbl``: 3D Slicer's older colour table.
* a NIfTI header extension with the names, as TotalSegmentator writes and reads it.
"""

from __future__ import annotations

from pathlib import Path

from medseg.io.files import write_text
from medseg.io.tables import write_csv
from medseg.io.terminology import category_of, clean_text, side_of, type_of
from medseg.labels import Code, Label, LabelMap

CSV_COLUMNS = (
    "LabelValue", "Name", "Color_R", "Color_G", "Color_B", "Color_A",
    *(f"{part}_{field}"
      for part in ("Category", "Type", "TypeModifier", "Region", "RegionModifier")
      for field in ("CodingScheme", "CodeValue", "CodeMeaning")),
)  # fmt: skip
"""3D Slicer 5.10, Docs/developer_guide/modules/colors.md; colours 0 to 255; it does not read quoted cells."""

CARET_START = (
    '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>'
    '   <VolumeInformation Index="0">   <LabelTable>\n'
)
CARET_END = (
    "  </LabelTable>  <StudyMetaDataLinkSet>  </StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>"
    "   </VolumeInformation></CaretExtension>"
)
"""Fixed text around the labels, date included, as in TotalSegmentator's nifti_ext_header.py."""


def write_colour_csv(path: Path, labels: LabelMap) -> None:
    """Write ``labels.csv``.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    write_csv(path, CSV_COLUMNS, (_csv_row(label) for label in labels.labels))


def write_colour_table(path: Path, labels: LabelMap) -> None:
    """Write ``labels.ctbl``: index, name without spaces, and red, green, blue and opacity from 0 to 255.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    lines = [f"# Color table file {path.name}", f"# {len(labels.labels) + 1} values", "0 background 0 0 0 0"]
    for label in labels.labels:
        red, green, blue = label.colour
        name = "_".join(clean_text(label.name).split()) or f"label_{label.value}"
        lines.append(f"{label.value} {name} {red} {green} {blue} 255")
    write_text(path, "\n".join(lines) + "\n")


def caret_table(labels: LabelMap) -> bytes:
    """Return the XML of label names and colours that goes into a NIfTI header extension, UTF-8."""
    rows = "".join(_caret_row(label) for label in labels.labels)
    return (CARET_START + rows + CARET_END).encode()


def _csv_row(label: Label) -> list[object]:
    codes: list[object] = []
    for code in (category_of(label), type_of(label), side_of(label), None, None):
        codes += _cells(code)
    return [label.value, _cell(label.name), *label.colour, 255, *codes]


def _cells(code: Code | None) -> list[str]:
    return [_cell(text) for text in (code.scheme, code.value, code.meaning)] if code else ["", "", ""]


def _cell(text: str) -> str:
    return clean_text(text, without=',"')


def _caret_row(label: Label) -> str:
    red, green, blue = (f"{part / 255:.6g}" for part in label.colour)
    name = clean_text(label.name).replace("]]>", "]]]]><![CDATA[>")
    return (
        f'<Label Key="{label.value}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="1"><![CDATA[{name}]]></Label>\n'
    )
