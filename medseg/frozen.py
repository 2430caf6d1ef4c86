"""The base of what files and messages hold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Never changed once it is made; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
