"""Text that came from files, their names or their headers, made safe to show."""

from __future__ import annotations


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
    return "".join(letter if letter.isprintable() or letter == kept else "?" for letter in text)
