"""What goes to a worker and what it answers: plain data, and the same as lines of JSON between processes.

No array ever travels: a worker reads its scans and writes its results itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from medseg.batch.summary import CaseResult
from medseg.config import InferenceConfig
from medseg.labels import LabelMap
from medseg.reference import Reference
from medseg.volume import Case

Stage = Literal["waiting", "read", "prepare", "infer", "write"]


@dataclass(frozen=True, slots=True)
class Task:
    """A case to segment.

    Attributes
    ----------
    size : bytes of the scan in memory (float32) with its mask.
    attempt : how often it is being tried now, from 1.
    """

    case: Case
    size: int = 0
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run must know of the model and the device that a worker has opened.

    Attributes
    ----------
    name, digest : of the model.
    channels : that it takes.
    labels : what its masks mean, with the lesions of this run marked.
    reference : what its training cases were like.
    inference : how it is applied.
    device, device_name : such as "cuda:0" and "NVIDIA A100"; the name of a CPU is left to the record of the machine.
    gpus : how many the worker sees.
    settings : digest of all that decides a result beside scan and model.
    runtime : computes the networks: torch, onnx or openvino.
    """

    name: str
    digest: str
    channels: int
    labels: LabelMap
    reference: Reference | None
    inference: InferenceConfig
    device: str
    device_name: str
    gpus: int
    settings: str
    runtime: str = "torch"


@dataclass(frozen=True, slots=True)
class Progress:
    """A case begins a stage; "waiting" between two stages, while nothing is done for it."""

    case: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class Refusal:
    """A worker can't go on, whatever the case: the kind of error, as in `medseg.errors`, and its sentence."""

    kind: str
    message: str


Tell = Callable[[Progress | CaseResult], None]
"""Told at once, and from any thread, of stages that begin and of cases that end."""

Message = Task | Facts | Progress | CaseResult | Refusal
KINDS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind) for kind in (Task, Facts, Progress, CaseResult, Refusal)
}


def to_line(message: Message) -> bytes:
    """Return a message as a line of JSON; names of files may be any bytes."""
    kind = type(message).__name__
    return json.dumps([kind, KINDS[kind].dump_python(message, mode="json")]).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """Return the message of a line of JSON."""
    kind, values = json.loads(line)
    return KINDS[kind].validate_python(values)
