"""What clients send, checked: garbage is refused before anything is done."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from fastapi import Body
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg.labels import LabelMap
from medseg.serve.refusal import UNPROCESSABLE, RequestError
from medseg.text import printable

MOST_LETTERS = 64

B = TypeVar("B", bound=BaseModel)

Params = Annotated[dict[str, Any] | None, Body()]
"""The JSON body of a request, where it has one."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    client_id: str | None = Field(None, max_length=1024, description="Who asks; in Slicer's settings")

    @property
    def client(self) -> str:
        """Who asks, as a short text."""
        return printable(self.client_id or "")[:MOST_LETTERS]


class SegmentName(BaseModel):
    """A segment of a label map that is handed in."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(max_length=1024, description="As Slicer shows it")
    idx: int | None = Field(None, description="Its number as Slicer's module counts, from 1")


class LabelParams(_Body):
    """What is said of a label."""

    label_info: tuple[SegmentName, ...] | None = Field(None, max_length=65535, description="The segments, in order")

    def names(self, labels: LabelMap) -> tuple[str, ...]:
        """Return the segments' names in the order of their values; all labels where nothing is said.

        Raises
        ------
        RequestError
            422 if the numbers are not 1, 2, 3, ...: then which value is which name can't be known.
        """
        if not self.label_info:
            return tuple(label.name for label in labels.labels)
        for number, segment in enumerate(self.label_info, start=1):
            if segment.idx not in (None, number):
                raise RequestError(
                    UNPROCESSABLE,
                    f"segment {number} has the number {segment.idx}: which value is which segment can't be told; move "
                    "segments that are not submitted (background, scribbles) to the end of the list, and submit again",
                )
        return tuple(segment.name for segment in self.label_info)


class InferParams(_Body):
    """How a mask is wanted."""

    result_extension: str = Field(".nii.gz", max_length=16, description=".nii.gz, .nii, .nrrd or .seg.nrrd")


class SampleParams(_Body):
    """Who wants the next case."""


def parse(text: str, kind: type[B]) -> B:
    """Return the parameters in a form field.

    Raises
    ------
    RequestError
        422 if it is not JSON, or not of this kind.
    """
    try:
        return kind.model_validate(json.loads(text) if text else {})
    except (ValueError, RecursionError, ValidationError):
        raise RequestError(UNPROCESSABLE, "params: not the JSON that is expected here") from None


def checked(params: dict[str, Any] | None, kind: type[B]) -> B:
    """Return the parameters of a JSON body; raises `RequestError` (422) if they are not of this kind."""
    try:
        return kind.model_validate(params or {})
    except ValidationError:
        raise RequestError(UNPROCESSABLE, "the body is not what is expected here") from None
