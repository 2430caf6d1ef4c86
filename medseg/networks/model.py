"""The model folder: all that segmenting needs, and nothing that runs code.

::

    model/
      model.json             plan, labels, post-processing, scores, provenance
      weights.safetensors    float16 weights; of an ensemble fold_0.safetensors, fold_1.safetensors, ...
      exported.json          networks for other runtimes, which may stand in place of the weights

A folder appears whole or not at all. Reading refuses, each with its own sentence: what is missing,
malformed, from a newer medseg, damaged, a pickle, or does not fit its own plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import nn

from medseg.config import Backend, InferenceConfig, describe_problems
from medseg.errors import ModelError, OutputError
from medseg.io.files import atomic_folder, is_empty_folder
from medseg.labels import LabelMap
from medseg.networks.build import build_blank
from medseg.networks.exported import RECORD as EXPORTED
from medseg.networks.exported import Export, choose_export, load_exported, read_exports
from medseg.networks.pretrained import RECORD as PRETRAINED
from medseg.networks.weights import check_fit, check_weight_file, half, read_weights, write_weights
from medseg.plan import Plan
from medseg.provenance import digest_files
from medseg.records import Record
from medseg.reference import Reference
from medseg.rules import PostprocessingRules

SCHEMA_VERSION = 1
"""Version of ``model.json``; a higher one is refused, because its meaning can't be known."""

RECORD = "model.json"


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model.

    Attributes
    ----------
    networks : one, or one a fold; their logits are averaged.
    plan : how scans are prepared and the networks are built.
    labels : what the outputs mean.
    inference : how the model is applied unless told otherwise.
    postprocessing : clean-up of the masks, chosen by cross-validation; None: none was chosen.
    scores : mean Dice on held-out cases by target, and "mean"; None where nothing could be scored.
    reference : what the training cases were like, which segmented cases are checked against; None: not known.
    modalities : DICOM modalities of the training cases, such as "CT"; empty: not known.
    provenance : what the model was made from and by, as JSON values.
    """

    networks: tuple[nn.Module, ...]
    plan: Plan
    labels: LabelMap
    name: str = "model"
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    postprocessing: PostprocessingRules | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    reference: Reference | None = None
    modalities: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


class ModelRecord(Record):
    """What ``model.json`` holds."""

    schema_version: int = Field(SCHEMA_VERSION, description="Version of this file's fields")
    name: str = Field(min_length=1, description="Name of the model")
    networks: int = Field(1, ge=1, description="Number of networks; more than one is an ensemble of folds")
    plan: Plan = Field(description="Preprocessing, patch and topology")
    labels: LabelMap = Field(description="Names, values, colours and codes of the structures")
    inference: InferenceConfig = Field(description="How the model is applied unless told otherwise")
    postprocessing: PostprocessingRules | None = Field(None, description="Clean-up of the masks")
    scores: dict[str, float | None] = Field(default_factory=dict, description="Mean Dice on held-out cases")
    reference: Reference | None = Field(None, description="What training cases were like; for checks without truth")
    modalities: tuple[str, ...] = Field((), description="DICOM modalities of the training cases; empty: not known")
    provenance: dict[str, Any] = Field(default_factory=dict, description="What it was made from and by")

    @model_validator(mode="after")
    def _check(self) -> ModelRecord:
        named = self.postprocessing.structures if self.postprocessing else {}
        targets = list(self.labels.targets)
        unknown = sorted(set(named) - set(targets))
        if unknown:
            raise ValueError(f"postprocessing names {unknown}, which are not among the targets {targets}")
        return self


def save_model(model: Model, folder: Path) -> None:
    """Write a model folder, replacing an earlier model there.

    Raises
    ------
    ModelError
        If a weight is not finite, or too large for float16.
    OutputError
        If `folder` holds something else than a model, or can't be written.
    """
    if folder.exists() and not (folder / RECORD).is_file() and not is_empty_folder(folder):
        raise OutputError(f"{folder}: there is something else than a model; give a new folder for the model")
    weights = [half(network.state_dict()) for network in model.networks]
    record = ModelRecord(
        name=model.name,
        networks=len(model.networks),
        plan=model.plan,
        labels=model.labels,
        inference=model.inference,
        postprocessing=model.postprocessing,
        scores=dict(model.scores),
        reference=model.reference,
        modalities=model.modalities,
        provenance=dict(model.provenance),
    )
    with atomic_folder(folder) as temporary:
        for name, tensors in zip(_weight_files(len(weights)), weights, strict=True):
            write_weights(tensors, temporary / name)
        (temporary / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")


def load_model(folder: str | PathLike[str], device: torch.device | str = "cpu", backend: Backend = "torch") -> Model:
    """Read a model folder; its networks come in evaluation mode, with float32 weights on `device`.

    Parameters
    ----------
    backend : networks for another runtime, which segment on the CPU and have no weights to learn from.

    Raises
    ------
    ModelError
        If the folder is missing, incomplete, malformed, from a newer medseg, or its weights are
        damaged, pickled, not finite or of another plan; or if it has no networks for the back end.
    """
    folder = Path(folder)
    record = _read_record(folder)
    return Model(
        networks=_load_networks(folder, record, torch.device(device), backend),
        plan=record.plan,
        labels=record.labels,
        name=record.name,
        inference=record.inference,
        postprocessing=record.postprocessing,
        scores=record.scores,
        reference=record.reference,
        modalities=record.modalities,
        provenance=record.provenance,
    )


def model_digest(folder: Path) -> str:
    """Return the SHA-256 over ``model.json`` and the weights, which names the model in results.

    Raises
    ------
    ModelError
        If the folder is no model folder.
    """
    record, exports = _read_record(folder), read_exports(folder)
    names = _weight_files(record.networks) if _has_weights(folder, exports) else ()
    for name in names:
        check_weight_file(folder / name)
    return digest_files(folder / name for name in (RECORD, *names, *([EXPORTED] if exports else [])))


def _weight_files(networks: int) -> tuple[str, ...]:
    if networks == 1:
        return ("weights.safetensors",)
    return tuple(f"fold_{number}.safetensors" for number in range(networks))


def _has_weights(folder: Path, exports: tuple[Export, ...]) -> bool:
    """Whether torch's weights are expected: an exported model may do without."""
    return not exports or any(folder.glob("*.safetensors"))


def _read_record(folder: Path) -> ModelRecord:
    path = folder / RECORD
    if folder.is_file():
        raise ModelError(f"{folder}: this is a file; give the model's folder, {folder.parent}")
    if not folder.is_dir():
        raise ModelError(f"{folder}: there is no such model folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and _is_newer(values.get("schema_version")):
            raise ModelError(
                f"{path}: its format {values['schema_version']} is newer than the {SCHEMA_VERSION} that this "
                "medseg reads; install the newest medseg"
            )
        return ModelRecord.model_validate(values)
    except FileNotFoundError:
        if (folder / PRETRAINED).is_file():
            raise ModelError(
                f"{folder}: these are pre-trained weights, which know no structure yet; train them first: "
                f"medseg train --init {folder}"
            ) from None
        raise ModelError(
            f"{folder}: this is no model folder, it has no {RECORD}; give the folder 'model' of a finished training run"
        ) from None
    except ValidationError as error:
        raise ModelError(f"{path}: not a sound model ({describe_problems(error)})") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}); copy the model folder again") from None


def _is_newer(version: object) -> bool:
    return isinstance(version, int) and version > SCHEMA_VERSION


def _load_networks(folder: Path, record: ModelRecord, device: torch.device, backend: Backend) -> tuple[nn.Module, ...]:
    exports = read_exports(folder)
    if backend == "auto" and device.type == "cuda" and _has_weights(folder, exports):
        backend = "torch"  # exports compute on the CPU
    export = choose_export(folder, exports, backend)
    if export is not None:
        return load_exported(folder, export, record.plan, record.labels.outputs)
    if not _has_weights(folder, exports):
        raise ModelError(
            f"{folder}: exported for {', '.join(export.runtime for export in exports)} without torch's weights, it can "
            "segment but nothing else; give the model folder that it was exported from"
        )
    return tuple(_load_network(folder / name, record, device) for name in _weight_files(record.networks))


def _load_network(path: Path, record: ModelRecord, device: torch.device) -> nn.Module:
    tensors = read_weights(path)
    network = build_blank(record.plan, record.labels.outputs)
    check_fit(path, RECORD, network.state_dict(), tensors)
    network.load_state_dict(tensors)
    return network.to(device).eval()
