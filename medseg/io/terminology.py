"""What labels are in the words of SNOMED CT, as 3D Slicer and DICOM ask for it: category, type, side."""

from __future__ import annotations

from medseg.labels import Code, Label, side_in

ANATOMY = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")
ALTERED = Code(scheme="SCT", value="49755003", meaning="Morphologically Altered Structure")

TISSUE = Code(scheme="SCT", value="85756007", meaning="Tissue")
"""Category and type of a label without a code, as 3D Slicer's default for an unnamed segment."""

LESION = Code(scheme="SCT", value="52988006", meaning="Lesion")

SIDES = {
    "left": Code(scheme="SCT", value="7771000", meaning="Left"),
    "right": Code(scheme="SCT", value="24028007", meaning="Right"),
}


def category_of(label: Label) -> Code:
    """Return the category of a label: altered tissue for lesions, anatomy for what has a code."""
    if label.lesion:
        return ALTERED
    return ANATOMY if label.code else TISSUE


def type_of(label: Label) -> Code:
    """Return what a label is: its own code, or the most general one."""
    return label.code or (LESION if label.lesion else TISSUE)


def side_of(label: Label) -> Code | None:
    """Return the side that a label's name gives in full, unless its code says it already.

    Examples
    --------
    >>> kidney = Code(value="64033007", meaning="Kidney")
    >>> side_of(Label(value=1, name="kidney_left", colour=(0, 0, 0), code=kidney)).meaning
    'Left'
    """
    named = side_in(label.name)
    if named is None or (label.code and side_in(label.code.meaning)):
        return None
    return SIDES.get(named[0])


def clean_text(text: str, *, without: str = "", limit: int | None = None) -> str:
    """Return a name with characters that a format gives a meaning replaced by spaces, without spaces around it.

    Parameters
    ----------
    without : characters to replace, beside line breaks and control characters.
    limit : most characters that are kept.
    """
    clean = "".join(" " if character in without or not character.isprintable() else character for character in text)
    return clean.strip()[:limit].strip()  # DICOM takes a space at the end for padding
