"""What a worker process is told when it begins; imports little, so that workers start at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from pydantic import Field

from medseg.config import SegmentConfig
from medseg.errors import ConfigError
from medseg.records import Record

if TYPE_CHECKING:
    from medseg.labels import LabelMap
    from medseg.volume import Mask, Volume

    Picture = Callable[[Volume, Mask, LabelMap, Path], None]
    """Draws scan and mask into a PNG file; named by the caller because drawing lies above this layer."""


class Job(Record):
    """All that a worker must know beside its cases."""

    model: Path = Field(description="Model folder")
    folder: Path = Field(description="Where the cases' folders go")
    config: SegmentConfig = Field(description="Device, application, formats")
    picture: str = Field("", description="Function that draws pictures, as module:name; empty: none")
    number: int = Field(0, description="Number of the worker, from 0")
    workers: int = Field(1, description="Number of workers that share this machine")
    debug: bool = Field(False, description="Show exceptions in full on standard error")

    def to_line(self) -> bytes:
        """Return it as a line of JSON."""
        # not pydantic's own JSON, which refuses paths that are no text
        return json.dumps(self.model_dump(mode="json")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Job:
        """Return the job of a line of JSON."""
        return cls.model_validate(json.loads(line))


def find_picture(picture: Picture | str | None) -> Picture | None:
    """Return the function that draws pictures, by its name such as "medseg.quality.overlay:overlay_png".

    Raises
    ------
    ConfigError
        If there is no such function.
    """
    if not isinstance(picture, str):
        return picture
    try:
        return resolve_name(picture) if picture else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"picture {picture!r} can't be imported ({error}); write it as module:function") from None


def name_of(picture: Picture | str | None) -> str:
    """Return the name by which another process imports a function; "" of None.

    Raises
    ------
    ConfigError
        If it can't be imported: a lambda, a function within a function, or one of a script or notebook.
    """
    if picture is None or isinstance(picture, str):
        return picture or ""
    name = f"{picture.__module__}:{picture.__qualname__}"
    try:
        is_found = picture.__module__ != "__main__" and resolve_name(name) is picture
    except (ImportError, AttributeError, ValueError):
        is_found = False
    if not is_found:
        raise ConfigError(
            f"picture: a worker process can't import {name}; define the function in a module, or set workers to 0"
        )
    return name
