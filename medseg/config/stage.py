"""What all configuration stages share: they are frozen, numbers are finite, and an unknown key is an error."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from medseg.records import Record

Precision = Literal["auto", "float32", "bf16", "fp16"]
"""Arithmetic of a network's layers; auto: the fastest safe one."""

ALIKE = 0.7
"""Similarity (0 to 1) from which a name is taken for a slip of another."""


class Stage(Record):
    """Base of all stages: frozen, and unknown keys, ``.nan`` and ``.inf`` are errors."""

    model_config = ConfigDict(allow_inf_nan=False)


def describe_problems(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return every problem of a validation as 'field: what is wrong', joined by semicolons.

    Parameters
    ----------
    model : what was validated; of its fields, those that an unknown one resembles are named.
    """
    names = list(field_names(model)) if model else []
    errors = [each for each in error.errors() if not _follows(each, error.errors())]
    return "; ".join(": ".join(filter(None, (_place(e), _problem(e, names)))) for e in errors)


def field_names(model: type[BaseModel], section: str = "") -> Iterator[str]:
    """Yield the names of all fields with their sections, such as training.steps."""
    for name, field in model.model_fields.items():
        yield section + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_names(field.annotation, f"{section}{name}.")


def _follows(error: ErrorDetails, others: list[ErrorDetails]) -> bool:
    """Return whether a list is only too short because pydantic doesn't count its wrong entries, which are named."""
    place = error["loc"]
    return error["type"] == "too_short" and any(e["loc"][:-1] == place for e in others)


def _place(error: ErrorDetails) -> str:
    return ".".join(map(str, error["loc"]))


def _problem(error: ErrorDetails, names: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        alike = _alike(_place(error), names)
        return "there is no such field" + (f", but there is {', '.join(alike)}" if alike else "")
    if error["type"] == "literal_error":
        return f"{error['input']!r} is none of {error['ctx']['expected']}"
    return error["msg"].removeprefix("Value error, ")


def _alike(wrong: str, names: list[str]) -> list[str]:
    """Return the names that are most like a wrong one without their sections; of equals, the likeliest section's."""
    section, _, last = wrong.rpartition(".")
    nearest = _most_like(last, {name: name.rpartition(".")[2] for name in names}, ALIKE)
    return _most_like(section, {name: name.rpartition(".")[0] for name in nearest}) if section else nearest


def _most_like(word: str, words: dict[str, str], least: float = 0.0) -> list[str]:
    """Return the keys of the words that are most like a word, if they are at all."""
    likeness = {key: SequenceMatcher(None, word, other).ratio() for key, other in words.items()}
    best = max([least, *likeness.values()])
    return [key for key, value in likeness.items() if value == best]
