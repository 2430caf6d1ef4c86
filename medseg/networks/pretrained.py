"""The folder of pre-trained weights: encoder and decoder without heads, to start a training from.

::

    pretrained/
      pretrained.json        plan, how well hidden voxels were explained, provenance
      weights.safetensors    float16 weights

It knows no structure, so it is no model and can't segment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from medseg.config import describe_problems
from medseg.errors import ModelError, PlanError
from medseg.io.files import atomic_folder
from medseg.networks.build import build_blank
from medseg.networks.weights import check_fit, half, read_weights, write_weights
from medseg.plan import Plan
from medseg.provenance import digest_files
from medseg.records import Record

RECORD = "pretrained.json"

WEIGHTS = "weights.safetensors"

SCHEMA_VERSION = 1
"""Version of ``pretrained.json``; any other is refused."""

HEADS = "heads."
"""How the names of the U-Net's heads begin: what depends on the labels."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Weights to start from.

    Attributes
    ----------
    weights : of encoder and decoder, by their names in the network.
    plan : how scans are prepared and the network is built.
    explained : share of the variance of hidden voxels that the network explained.
    provenance : what the weights were made from and by, as JSON values.
    """

    weights: Mapping[str, Tensor]
    plan: Plan
    explained: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def put_into(self, network: nn.Module) -> None:
        """Copy the weights into a network of the same plan; its heads stay as they are."""
        network.load_state_dict({**network.state_dict(), **self.weights})


class PretrainedRecord(Record):
    """What ``pretrained.json`` holds."""

    schema_version: int = Field(SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION, description="Version of the file")
    plan: Plan = Field(description="Preprocessing, patch and topology")
    explained: float = Field(description="Share of the variance of hidden voxels that was explained")
    provenance: dict[str, Any] = Field(default_factory=dict, description="What it was made from and by")


def body(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a U-Net but for its heads."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(HEADS)}


def check_pretrainable(plan: Plan) -> None:
    """Refuse networks whose heads can't be told from the rest; raises `PlanError`."""
    if plan.network.name != "unet":
        raise PlanError(f"only the network unet can be pre-trained, not {plan.network.name}; set network.name=unet")


def save_pretrained(pretrained: Pretrained, folder: Path) -> None:
    """Write the folder whole, replacing earlier weights there.

    Raises
    ------
    ModelError
        If a weight is not finite, or too large for float16.
    OutputError
        If the folder can't be written.
    """
    tensors = half(pretrained.weights)
    record = PretrainedRecord(
        plan=pretrained.plan, explained=pretrained.explained, provenance=dict(pretrained.provenance)
    )
    with atomic_folder(folder) as temporary:
        write_weights(tensors, temporary / WEIGHTS)
        (temporary / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")


def holds(folder: Path, weights: Mapping[str, Tensor]) -> bool:
    """Whether a folder has these weights, rounded to float16 as they are there."""
    try:
        saved = load_pretrained(folder).weights
    except ModelError:
        return False
    rounded = half(weights)
    return saved.keys() == rounded.keys() and all(torch.equal(saved[name], rounded[name].float()) for name in saved)


def pretrained_digest(folder: Path) -> str:
    """Return the SHA-256 over record and weights."""
    return digest_files(folder / name for name in (RECORD, WEIGHTS))


def load_pretrained(folder: Path) -> Pretrained:
    """Read a folder of pre-trained weights, as float32.

    Raises
    ------
    ModelError
        If it is incomplete, malformed, or its weights are damaged, pickled or of another plan.
    """
    path = folder / RECORD
    try:
        record = PretrainedRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ModelError(f"{path}: no sound record of pre-trained weights ({describe_problems(error)})") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}); copy the folder again") from None
    weights = read_weights(folder / WEIGHTS)
    expected = body(build_blank(record.plan, outputs=1))
    check_fit(folder / WEIGHTS, RECORD, expected, weights)
    return Pretrained(weights, record.plan, record.explained, record.provenance)
