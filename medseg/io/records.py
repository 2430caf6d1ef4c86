"""Records: the JSON files by which a stage knows what is done already, and what that follows from."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Record = TypeVar("Record", bound=BaseModel)


def find_record(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in a file; None if there is no file, or it is damaged or holds something else."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
