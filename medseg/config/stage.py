"""What all configuration stages share: they are frozen, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Stage(BaseModel):
    """Base of all stages: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe_problems(error: ValidationError) -> str:
    """Return every problem of a validation as 'field: what is wrong', joined by semicolons."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
