"""Export a model folder for another runtime, compared with its source before it is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from torch import nn

from medseg.errors import ConfigError, OutputError
from medseg.export.compare import check, compare
from medseg.export.convert import check_exporters, quantise, write_onnx, write_openvino
from medseg.export.windows import noise, windows_of
from medseg.inference.hardware import fit_threads, keep_memory
from medseg.io.files import atomic_folder, is_empty_folder
from medseg.networks.arithmetic import bf16_pays
from medseg.networks.exported import RECORD as EXPORTED
from medseg.networks.exported import Export, ExportRecord, Precision, Runtime, open_networks, require
from medseg.networks.model import RECORD as MODEL
from medseg.networks.model import Model, load_model, model_digest
from medseg.provenance import digest_files, package_versions

PACKAGES = ("medseg", "torch", "onnx", "onnxruntime", "onnxscript", "openvino")
"""Packages whose version may change an export."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is exported, and how.

    Attributes
    ----------
    targets : "onnx" and "openvino", in the order in which they are preferred; with "torch" its weights are kept, too.
    int8 : convolutions with 8-bit numbers.
    float32 : OpenVINO computes in float32, not bf16, where the processor has it.
    scans : folder of scans to calibrate and compare on; None: compared on noise.
    least : share of the voxels that must get the source's label; None: by precision.
    """

    targets: tuple[str, ...]
    int8: bool = False
    float32: bool = False
    scans: Path | None = None
    least: float | None = None


def export_model(folder: Path, output: Path, options: ExportOptions) -> tuple[Export, ...]:
    """Export a model folder; the new folder appears whole or not at all.

    Raises
    ------
    ConfigError
        If a runtime is unknown, or 8 bits have nothing to be calibrated on.
    ModelError
        If a package is missing, the model can't be exported, or the export decides otherwise than the model.
    DatasetError
        If the folder of scans has no usable one.
    OutputError
        If `output` holds something else than a model, or can't be written.
    """
    runtimes = _check(options)
    _check_place(folder, output)
    keep_memory()
    fit_threads()
    model = load_model(folder)
    with TemporaryDirectory() as temporary, atomic_folder(output) as target:
        work = _Exporting(model, model_digest(folder), options, Path(temporary), target)
        exports = tuple(work.export(runtime) for runtime in runtimes)
        weights = folder.glob("*.safetensors") if "torch" in options.targets else ()
        for path in (folder / MODEL, *weights):
            shutil.copyfile(path, target / path.name)
        (target / EXPORTED).write_text(ExportRecord(exports=exports).model_dump_json(indent=1), encoding="utf-8")
    return exports


class _Exporting:
    """The export of one model: an ONNX graph of each network, from which every runtime's files are made.

    Parameters
    ----------
    source : digest of the model.
    scratch, target : folder of the graphs, and of what is exported.
    """

    def __init__(self, model: Model, source: str, options: ExportOptions, scratch: Path, target: Path) -> None:
        self.model, self.source, self.options, self.target = model, source, options, target
        self.windows = windows_of(options.scans, model) if options.scans else noise(model.plan)
        self.graphs = [
            self._graph(network, scratch / f"{number}.onnx") for number, network in enumerate(model.networks)
        ]

    def export(self, runtime: Runtime) -> Export:
        """Write the files of one runtime, and compare what they answer with the source."""
        files = [path for number, graph in enumerate(self.graphs) for path in self._write(runtime, number, graph)]
        precision = self._precision(runtime)
        networks = open_networks(runtime, precision, files)
        agreement = compare(self.model, networks, self.windows, from_scans=self.options.scans is not None)
        check(agreement, precision, self.options.least)
        return Export(
            runtime=runtime,
            precision=precision,
            files={path.name: digest_files([path]) for path in files},
            calibrated_on=len(self.windows) if self.options.int8 else 0,
            agreement=agreement,
            source=self.source,
            versions=package_versions(PACKAGES),
        )

    def _graph(self, network: nn.Module, path: Path) -> Path:
        write_onnx(network, self.model.plan, path)
        if not self.options.int8:
            return path
        quantised = path.with_suffix(".int8.onnx")
        quantise(path, quantised, self.windows, self.model.plan)
        return quantised

    def _write(self, runtime: Runtime, number: int, graph: Path) -> list[Path]:
        if runtime == "onnx":
            return [Path(shutil.copyfile(graph, self.target / f"onnx_{number}.onnx"))]
        path = self.target / f"openvino_{number}.xml"
        write_openvino(graph, path)
        return [path, path.with_suffix(".bin")]

    def _precision(self, runtime: Runtime) -> Precision:
        if self.options.int8:
            return "int8"
        return "bf16" if runtime == "openvino" and bf16_pays() and not self.options.float32 else "float32"


def _check(options: ExportOptions) -> tuple[Runtime, ...]:
    """Return the runtimes to export for; refuse wrong wishes and missing packages."""
    runtimes: list[Runtime] = []
    for target in options.targets:
        if target in ("onnx", "openvino"):
            runtimes.append(cast(Runtime, target))
        elif target != "torch":
            raise ConfigError(f"--to {target}: there is no such runtime; choose onnx, openvino, or both: onnx,openvino")
    if not runtimes:
        raise ConfigError("there is nothing to export for: say --to onnx, --to openvino or both")
    if options.int8 and options.float32:
        raise ConfigError("--int8 and --float32 exclude each other; give one of them")
    if options.int8 and options.scans is None:
        raise ConfigError("--int8 needs --calibrate SCANS, a folder of scans such as the model segments")
    check_exporters()
    for runtime in runtimes:
        require(runtime)
    return tuple(dict.fromkeys(runtimes))


def _check_place(folder: Path, output: Path) -> None:
    if output.exists() and output.resolve() == folder.resolve():
        raise OutputError(f"{output}: this is the model itself; give another folder for the export")
    if output.exists() and not (output / EXPORTED).is_file() and not is_empty_folder(output):
        raise OutputError(f"{output}: there is something else than an export; give a new folder")
