"""Text that came from files, their names or their headers, made safe to show."""

from __future__ import annotations

from unicodedata import category

SPACE = "Zs"
"""Unicode's category of spaces; such as the wide one between the parts of a Japanese name, which Python calls not
printable."""


def printable(text: str, *, lines: bool = False) -> str:
    """Return `text` with a question mark for whatever could steer a terminal or can't be encoded.

    Parameters
    ----------
    lines : keep the ends of lines, for text that is meant to have several.

    Examples
    --------
    >>> printable("liver" + chr(27) + "[2J")
    'liver?[2J'
    """
    kept = "\n" if lines else ""
    return "".join(
        letter if letter.isprintable() or letter == kept or category(letter) == SPACE else "?" for letter in text
    )
