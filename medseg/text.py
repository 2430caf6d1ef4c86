"""Words of fixed vocabularies, and how text, names and numbers are shown."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from unicodedata import category

SPACE = "Zs"
"""Unicode's category of spaces; such as the wide one between the parts of a Japanese name, which Python calls not
printable."""

SHOWN = 5
"""Names that a message lists before it only counts."""


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


def shown(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are, for a message.

    Examples
    --------
    >>> shown("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def shown_sizes(sizes: Iterable[object], form: str = "") -> str:
    """Return sizes along axes as one word.

    Parameters
    ----------
    form : format of each, such as ".4g".

    Examples
    --------
    >>> shown_sizes((96, 96, 64)), shown_sizes((0.75, 0.75, 3.0), ".4g")
    ('96x96x64', '0.75x0.75x3')
    """
    return "x".join(format(size, form) for size in sizes)


def significant(value: float) -> float:
    """Return a number with six digits from its first; rounded to decimals, what is small would be 0.

    A voxel of a dental scan has 0.000027 ml, one of micro-CT is 0.0005 mm long, diffusion is 0.0008 mm²/s.

    Examples
    --------
    >>> significant(1534.23456), significant(2.7000001e-05)
    (1534.23, 2.7e-05)
    """
    return float(f"{value:.6g}")
