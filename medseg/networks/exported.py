"""Networks for other runtimes than torch, in a model folder beside or in place of torch's weights.

::

    model/
      model.json             as of any model
      exported.json          which runtimes, which files with which digests, and how well they agree with torch
      onnx_0.onnx            for ONNX Runtime; of an ensemble onnx_0.onnx, onnx_1.onnx, ...
      openvino_0.xml, .bin   for OpenVINO

What a runtime reads is data, no code, and is read only if its digest is the one that was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from medseg.config import Backend, describe_problems
from medseg.errors import ModelError
from medseg.networks.arithmetic import bf16_pays
from medseg.networks.build import network_axes
from medseg.networks.runtimes import ExportedNetwork, OnnxNetwork, OpenVinoNetwork
from medseg.plan import Plan
from medseg.provenance import digest_files
from medseg.records import Record
from medseg.text import shown_sizes

Runtime = Literal["onnx", "openvino"]

Precision = Literal["float32", "bf16", "int8"]

RECORD = "exported.json"

SCHEMA_VERSION = 1
"""Version of ``exported.json``; any other is refused."""

MODULES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Module that each runtime needs; the extra has the runtime's name."""


class Agreement(Record):
    """How an exported model's answers differ from its source's, over all voxels of some windows."""

    windows: int = Field(ge=1, description="Number of windows compared")
    from_scans: bool = Field(description="Windows were cut from scans; if not, they are smooth noise")
    largest_difference: float = Field(description="Largest difference of a probability")
    mean_difference: float = Field(description="Mean absolute difference of the probabilities")
    equal: float = Field(ge=0, le=1, description="Share of the voxels that get the same label")
    dice: dict[str, float | None] = Field(
        default_factory=dict, description="Dice of each structure with the source's; null: neither finds it"
    )


class Export(Record):
    """One runtime's networks."""

    runtime: Runtime = Field(description="What they were made for")
    precision: Precision = Field(description="Arithmetic of the convolutions")
    files: dict[str, str] = Field(min_length=1, description="SHA-256 of each file by its name")
    calibrated_on: int = Field(0, ge=0, description="Windows that the ranges of 8-bit numbers were measured on")
    agreement: Agreement = Field(description="Comparison with the source")
    source: str = Field(description="Digest of the model that was exported")
    versions: dict[str, str] = Field(description="Versions of what exported it")


class ExportRecord(Record):
    """What ``exported.json`` holds."""

    schema_version: int = Field(SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION, description="Version of the file")
    exports: tuple[Export, ...] = Field(min_length=1, description="One a runtime; the first is used unless told")


def read_exports(folder: Path) -> tuple[Export, ...]:
    """Return what a model folder was exported for; nothing if it is torch's alone.

    Raises
    ------
    ModelError
        If the record can't be used.
    """
    path = folder / RECORD
    try:
        return ExportRecord.model_validate(json.loads(path.read_text(encoding="utf-8"))).exports
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise ModelError(f"{path}: no sound record of exports ({describe_problems(error)}); export again") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}); copy the model folder again") from None


def choose_export(folder: Path, exports: tuple[Export, ...], backend: Backend) -> Export | None:
    """Return the export that a back end means; None: torch.

    Raises
    ------
    ModelError
        If the folder was not exported for it.
    """
    if backend == "torch" or (backend == "auto" and not exports):
        return None
    for export in exports:
        if backend in ("auto", export.runtime):
            return export
    raise ModelError(
        f"{folder} is not exported for {backend}; it has {', '.join(e.runtime for e in exports) or 'torch'}: export it "
        f"with medseg export --to {backend}, or choose another --backend"
    )


def require(runtime: str) -> None:
    """Refuse a runtime that is not installed; raises `ModelError`."""
    if find_spec(MODULES[runtime]) is None:
        raise ModelError(
            f"{MODULES[runtime]} is not installed, which models exported for {runtime} need: "
            f"pip install 'medseg[{runtime}]'"
        )


def load_exported(folder: Path, export: Export, plan: Plan, outputs: int) -> tuple[ExportedNetwork, ...]:
    """Return an export's networks, ready to answer windows of the plan's patch.

    Parameters
    ----------
    outputs : logits a voxel, `LabelMap.outputs`.

    Raises
    ------
    ModelError
        If the runtime is not installed, a file is missing, damaged, or not what was exported, or the networks are of
        another plan or other labels.
    """
    for name, digest in export.files.items():
        _check_file(folder / name, digest)
    networks = open_networks(export.runtime, export.precision, [folder / name for name in export.files])
    window = tuple(plan.patch[axis] for axis in network_axes(plan))
    expected = (1, len(plan.channels), *window), (1, outputs, *window)
    for network in networks:
        if network.shapes != expected:
            raise ModelError(
                f"{folder}: what is exported for {export.runtime} makes logits of windows as {_told(network.shapes)}, "
                f"but model.json says {_told(expected)}; both must be of the same export: copy the model folder again, "
                "or export it again"
            )
    return networks


def open_networks(runtime: Runtime, precision: Precision, files: Iterable[Path]) -> tuple[ExportedNetwork, ...]:
    """Return the networks in an export's files; raises `ModelError` if the runtime is missing or can't use one."""
    require(runtime)
    if runtime == "onnx":
        return tuple(OnnxNetwork(path) for path in files)
    bf16 = precision != "float32" and bf16_pays()
    return tuple(OpenVinoNetwork(path, bf16=bf16) for path in files if path.suffix == ".xml")


def _told(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """Return the shapes of a window and its logits in words, such as 1x1x96x96x96 to 1x3x96x96x96."""
    return " to ".join(map(shown_sizes, shapes))


def _check_file(path: Path, digest: str) -> None:
    try:
        found = digest_files([path])
    except OSError:
        raise ModelError(
            f"{path}: the exported network is missing or not readable; copy the model folder again"
        ) from None
    if found != digest:
        raise ModelError(
            f"{path}: the exported network is not the file that was written ({found[:12]} in place of {digest[:12]}); "
            "copy the model folder again, or export it again"
        )
