"""What all configuration stages share: they are frozen, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails


class Stage(BaseModel):
    """Base of all stages: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe_problems(error: ValidationError) -> str:
    """Return every problem of a validation as 'field: what is wrong', joined by semicolons."""
    return "; ".join(": ".join(filter(None, (".".join(map(str, e["loc"])), _problem(e)))) for e in error.errors())


def _problem(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    return error["msg"].removeprefix("Value error, ")
