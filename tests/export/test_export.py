"""Small networks, exported for both runtimes: they answer as their source, and whatever is wrong is refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.batch.segment_folder import segment_folder
from medseg.config import InferenceConfig, make_segment_config
from medseg.errors import ConfigError, DatasetError, ModelError, OutputError
from medseg.export import export as exporting
from medseg.export.compare import check, compare
from medseg.export.export import ExportOptions, export_model
from medseg.labels import LabelMap
from medseg.networks import exported
from medseg.networks.build import build_network
from medseg.networks.exported import Agreement, read_exports
from medseg.networks.model import Model, load_model, model_digest, save_model
from medseg.outputs import NetworkOutput
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

SPY = """
import socket, sys, urllib.request
def refuse(*_, **__):
    raise SystemExit("the network was used")
socket.socket.connect = socket.create_connection = urllib.request.urlopen = refuse
from medseg.networks.runtimes import silent_openvino
assert silent_openvino().Core
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""

for needed in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    if find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install 'medseg[openvino]'", allow_module_level=True)


def plan_of(dimensions=3, channels=1) -> Plan:
    kernel, halving = ((3, 3, 3), (2, 2, 2)) if dimensions == 3 else ((3, 3, 1), (2, 2, 1))
    return Plan(
        dimensions=dimensions,
        spacing=(1.0, 1.0, 1.0),
        slice_axis=2,
        patch=(16, 16, 16 if dimensions == 3 else 1),
        batch=2,
        channels=tuple(f"c{number}" for number in range(channels)),
        normalisation=(ChannelNormalisation(kind="zscore"),) * channels,
        mirror=(False, False, False),
        network=NetworkPlan(features=(4, 8), kernels=(kernel,) * 2, strides=((1, 1, 1), halving)),
    )


def write_model(folder: Path, networks=1, **plan) -> Path:
    torch.manual_seed(0)
    made = plan_of(**plan)
    labels = LabelMap.parse({"dim": 1, "bright": 2})
    built = tuple(build_network(made, labels.outputs) for _ in range(networks))
    save_model(Model(built, made, labels, inference=InferenceConfig(precision="float32")), folder)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(100, 20, (20, 18, 17)).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / f"case_{seed}.nii.gz")
    (folder / "note.txt").write_text("no scan")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def both(model, scans, tmp_path_factory) -> Path:
    """Exported for both runtimes, torch's weights kept."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(model, folder, ExportOptions(("openvino", "onnx", "torch"), float32=True, scans=scans))
    return folder


def mask_of(folder: Path, case="case_0") -> np.ndarray:
    return np.asarray(nib.load(folder / "cases" / case / "mask.nii.gz").dataobj)


@pytest.mark.parametrize("backend", ["auto", "onnx", "openvino"])
def test_masks_are_those_of_the_source(both, model, scans, tmp_path, backend):
    for name, folder, wanted in (("a", model, "auto"), ("b", both, backend)):
        summary = segment_folder(scans, folder, tmp_path / name, make_segment_config(workers=0, backend=wanted))
        assert summary.exit_code == 0
    ours, theirs = (mask_of(tmp_path / name) for name in "ab")
    assert len(np.unique(ours)) > 1
    assert (ours == theirs).mean() > 0.999


def test_records_say_where_an_export_computes(both, scans, tmp_path, monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("medseg.batch.opening.choose_device", lambda *_: gpu)
    summary = segment_folder(scans, both, tmp_path / "out", make_segment_config(workers=0, backend="onnx"))
    assert [result.record.device for result in summary.results] == ["cpu", "cpu"]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["runtime"], run["device"], run["device_name"]) == ("onnx", "cpu", "")


def test_the_folder_is_a_model_like_any_other(both, model):
    assert (both / "model.json").read_bytes() == (model / "model.json").read_bytes()
    assert model_digest(both) != model_digest(model)
    first, second = read_exports(both)
    assert (first.runtime, second.runtime) == ("openvino", "onnx")
    assert first.source == model_digest(model)
    for export in (first, second):
        assert export.precision == "float32"
        assert export.agreement.from_scans
        assert export.agreement.equal > 0.9999
        assert export.agreement.largest_difference < 1e-3
    window = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        source = load_model(model).networks[0](window).logits
    for backend in ("torch", "onnx", "openvino"):
        answer = load_model(both, backend=backend).networks[0](window).logits
        torch.testing.assert_close(answer, source, rtol=1e-3, atol=1e-3)


def test_eight_bits_are_calibrated_on_scans(model, scans, tmp_path):
    exports = export_model(
        model, tmp_path / "out", ExportOptions(("onnx", "openvino"), int8=True, scans=scans, least=0.9)
    )
    assert all(export.calibrated_on >= 2 for export in exports)
    import onnx

    nodes = onnx.load(tmp_path / "out" / "onnx_0.onnx").graph.node
    quantised = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert [set(conv.input) <= quantised for conv in convolutions] == [False, *[True] * (len(convolutions) - 2), False]
    for backend, export in zip(("onnx", "openvino"), exports, strict=True):
        assert export.agreement.largest_difference > 0
        assert load_model(tmp_path / "out", backend=backend).networks


def test_an_ensemble_in_two_dimensions_is_exported_without_scans(tmp_path):
    source = write_model(tmp_path / "model", networks=2, dimensions=2, channels=2)
    (export,) = export_model(source, tmp_path / "out", ExportOptions(("onnx",)))
    assert list(export.files) == ["onnx_0.onnx", "onnx_1.onnx"]
    assert not export.agreement.from_scans
    window = torch.randn(1, 2, 16, 16)
    for ours, theirs in zip(
        load_model(source).networks, load_model(tmp_path / "out", backend="auto").networks, strict=True
    ):
        with torch.no_grad():
            torch.testing.assert_close(theirs(window).logits, ours(window).logits, rtol=1e-3, atol=1e-3)


def test_what_only_segments_cannot_be_trained_on(model, tmp_path):
    export_model(model, tmp_path / "out", ExportOptions(("onnx",)))
    assert not list((tmp_path / "out").glob("*.safetensors"))
    with pytest.raises(ModelError, match="can segment but nothing else; give the model folder"):
        load_model(tmp_path / "out")
    with pytest.raises(ModelError, match="not exported for openvino; it has onnx"):
        load_model(tmp_path / "out", backend="openvino")
    with pytest.raises(ModelError, match="not exported for onnx; it has torch"):
        load_model(model, backend="onnx")


def test_an_export_that_decides_otherwise_is_not_written(model, tmp_path, monkeypatch):
    disagreeing = Agreement(windows=1, from_scans=False, largest_difference=0.9, mean_difference=0.1, equal=0.98)
    monkeypatch.setattr(exporting, "compare", lambda *_, **__: disagreeing)
    with pytest.raises(ModelError, match=r"98\.0000% of the voxels .* less than 99\.99%, so it was not written"):
        export_model(model, tmp_path / "out", ExportOptions(("onnx",)))
    assert list(tmp_path.iterdir()) == []
    check(disagreeing, "int8", least=0.98)
    advice = {"float32": "; calibrate it", "bf16": "; export it with --float32,", "int8": "; export it without --int8,"}
    for precision, words in advice.items():
        with pytest.raises(ModelError, match=f"so it was not written{words}"):
            check(disagreeing, precision)


class Threshold(torch.nn.Module):
    """Calls "bright" what is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, image: torch.Tensor) -> NetworkOutput:
        nothing = torch.zeros_like(image)
        return NetworkOutput(torch.cat([nothing, nothing - 1, image - self.threshold], dim=1))


def test_an_export_that_loses_a_small_structure_is_refused():
    window = np.zeros((1, 16, 16, 16), np.float32)
    window[0, 4:6, 4:6, 4:8] = 1  # 0.4 % of the voxels
    source = Model((Threshold(0.5),), plan_of(), LabelMap.parse({"dim": 1, "bright": 2}))
    same = compare(source, [Threshold(0.6)], [window], from_scans=True)
    assert same.dice == {"dim": None, "bright": 1.0}
    check(same, "float32")
    lost = compare(source, [Threshold(2.0)], [window], from_scans=True)
    assert lost.equal > 0.99
    with pytest.raises(ModelError, match=r"draws bright with a Dice of 0\.000 against its source, less than 0\.8"):
        check(lost, "int8")
    check(lost, "int8", least=0.0)


@pytest.mark.parametrize("name", ["openvino_0.bin", "openvino_0.xml", "onnx_0.onnx"])
def test_a_damaged_or_missing_file_is_named(both, tmp_path, name):
    folder = Path(shutil.copytree(both, tmp_path / "copy"))
    backend = name.partition("_")[0]
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name}: the exported network is not the file that was written"):
        load_model(folder, backend=backend)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name}: the exported network is missing"):
        load_model(folder, backend=backend)
    assert load_model(folder).networks, "torch's weights are whole"


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("change", [{"patch": (32, 16, 16)}, {"labels": {"dim": 1}}, {"channels": 2}])
def test_networks_of_another_plan_or_other_labels_are_refused(both, tmp_path, backend, change):
    """Each scan failed with an unexpected error of the runtime's."""
    folder = Path(shutil.copytree(both, tmp_path / "copy"))
    plan = plan_of(channels=change.get("channels", 1)).model_dump(mode="json")
    record = json.loads((folder / "model.json").read_text())
    record["plan"] = plan | {"patch": change.get("patch", plan["patch"])}
    record["labels"] = LabelMap.parse(change.get("labels", {"dim": 1, "bright": 2})).model_dump(mode="json")
    (folder / "model.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=f"exported for {backend} makes logits of windows as 1x1x16x16x16 to 1x3x16"):
        load_model(folder, backend=backend)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_file_that_the_runtime_refuses_is_named(both, tmp_path, backend):
    folder = Path(shutil.copytree(both, tmp_path / "copy"))
    record = json.loads((folder / "exported.json").read_text())
    for export in record["exports"]:
        for name in export["files"]:
            (folder / name).write_bytes(b"no network")
            export["files"][name] = exported.digest_files([folder / name])
    (folder / "exported.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="can't use this network"):
        load_model(folder, backend=backend)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not readable as JSON"), ('{"exports": []}', "no sound record"), ('{"schema_version": 2}', "no sound")],
)
def test_a_wrong_record_is_refused(both, tmp_path, text, message):
    folder = Path(shutil.copytree(both, tmp_path / "copy"))
    (folder / "exported.json").write_text(text)
    for read in (model_digest, load_model):
        with pytest.raises(ModelError, match=message):
            read(folder)


def test_a_missing_package_is_named_with_its_extra(both, model, tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"onnxruntime is not installed.*pip install 'medseg\[onnx\]'"):
        load_model(both, backend="onnx")
    with pytest.raises(ModelError, match=r"pip install 'medseg\[openvino\]'"):
        export_model(model, tmp_path / "out", ExportOptions(("openvino",)))
    monkeypatch.setattr("medseg.export.convert.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="onnx, onnxscript, onnxruntime not installed"):
        export_model(model, tmp_path / "out", ExportOptions(("onnx",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (ExportOptions(("tensorrt",)), ConfigError, "no such runtime"),
        (ExportOptions(("torch",)), ConfigError, "nothing to export for"),
        (ExportOptions(("onnx",), int8=True), ConfigError, "needs --calibrate"),
        (ExportOptions(("onnx",), int8=True, float32=True), ConfigError, "exclude each other"),
    ],
)
def test_wrong_wishes_are_refused(model, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export_model(model, tmp_path / "out", options)


def test_a_folder_without_scans_calibrates_nothing(model, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    with pytest.raises(DatasetError, match="of 0 scans none gives a window"):
        export_model(model, tmp_path / "out", ExportOptions(("onnx",), int8=True, scans=tmp_path / "scans"))
    assert not (tmp_path / "out").exists()


def test_other_folders_are_left_alone(model, tmp_path):
    with pytest.raises(OutputError, match="this is the model itself"):
        export_model(model, model, ExportOptions(("onnx",)))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else than an export"):
        export_model(model, tmp_path, ExportOptions(("onnx",)))
    with pytest.raises(OutputError, match="something else than an export"):
        export_model(model, tmp_path / "thesis.txt", ExportOptions(("onnx",)))
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    shutil.copytree(model, tmp_path / "another")
    with pytest.raises(OutputError, match="something else than an export"):
        export_model(model, tmp_path / "another", ExportOptions(("onnx",)))
    assert (tmp_path / "another" / "weights.safetensors").is_file()


def test_openvino_is_imported_without_its_telemetry():
    done = subprocess.run([sys.executable, "-c", SPY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_logging_is_as_before(both):
    assert logging.root.manager.disable == logging.NOTSET
