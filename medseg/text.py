"""Words of fixed vocabularies, and text from elsewhere made fit for a message."""

from __future__ import annotations

from enum import Enum
from unicodedata import category

SPACE = "Zs"
"""Unicode's category of spaces; such as the wide one between the parts of a Japanese name, which Python calls not
printable."""


class Word(str, Enum):
    """A word of a fixed vocabulary, for tables, files and scripts; `enum.StrEnum`, which Python 3.10 lacks."""

    def __str__(self) -> str:
        return self.value


def first_line(error: BaseException) -> str:
    r"""Return the first line of what an exception says, or its type if it says nothing.

    Examples
    --------
    >>> first_line(ValueError("no such key\nin line 3")), first_line(ValueError())
    ('no such key', 'ValueError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
