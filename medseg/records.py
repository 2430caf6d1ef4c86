"""Records: what files and messages hold, for people and for the next stage; configurations and plans are some, too."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Kind = TypeVar("Kind", bound=BaseModel)


class Record(BaseModel):
    """Base of all records: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def find_record(path: Path, kind: type[Kind]) -> Kind | None:
    """Return the record in a file; None if there is no file, or it is damaged or holds something else."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
