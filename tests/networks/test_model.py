"""The model folder: nothing is lost but float16 rounding, and every wrong folder is told apart."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from medseg.config import InferenceConfig
from medseg.errors import ModelError, OutputError
from medseg.labels import LabelMap
from medseg.networks import model as module
from medseg.networks.build import build_network
from medseg.networks.model import Model, load_model, model_digest, save_model
from medseg.rules import PostprocessingRules, StructureRule

LABELS = LabelMap.parse({"liver": 1, "tumour": 2})


@pytest.fixture
def make_model(make_plan):
    def make(folds=1, **fields):
        plan = make_plan()
        networks = tuple(build_network(plan, LABELS.outputs) for _ in range(folds))
        return Model(networks, plan, LABELS, **fields)

    return make


@pytest.fixture
def folder(make_model, tmp_path):
    save_model(make_model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def change_record(folder):
    def change(**fields):
        record = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**record, **fields}))

    return change


@pytest.mark.parametrize("folds", [1, 3])
def test_round_trip(make_model, tmp_path, folds):
    model = make_model(
        folds,
        name="abdomen",
        inference=InferenceConfig(overlap=0.25),
        postprocessing=PostprocessingRules(structures={"liver": StructureRule(keep_largest=True)}),
        scores={"liver": 0.93, "tumour": None},
        modalities=("CT",),
        provenance={"training_cases": ["a", "b"]},
    )
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")

    for name in ("plan", "labels", "name", "inference", "postprocessing", "scores", "provenance"):
        assert getattr(loaded, name) == getattr(model, name)
    assert len(loaded.networks) == folds
    for network, original in zip(loaded.networks, model.networks, strict=True):
        assert not network.training
        for name, tensor in original.state_dict().items():
            assert network.state_dict()[name].dtype == torch.float32
            assert torch.equal(network.state_dict()[name], tensor.half().float())


def test_saving_a_loaded_model_changes_no_byte(folder, tmp_path):
    save_model(load_model(folder), tmp_path / "again")
    assert model_digest(tmp_path / "again") == model_digest(folder)


def test_on_a_gpu_torch_is_taken_where_its_weights_are(folder, monkeypatch):
    monkeypatch.setattr(module, "read_exports", lambda _: (SimpleNamespace(runtime="openvino"),))
    monkeypatch.setattr(module, "load_exported", lambda *_: ("exported",))
    monkeypatch.setattr(module, "_load_network", lambda *_: "torch")
    assert load_model(folder, "cpu", "auto").networks == ("exported",)
    assert load_model(folder, "cuda", "auto").networks == ("torch",)
    assert load_model(folder, "cuda", "openvino").networks == ("exported",)
    (folder / "weights.safetensors").unlink()
    assert load_model(folder, "cuda", "auto").networks == ("exported",)


def test_whole_numbers_are_kept_as_they_are(make_plan, tmp_path):
    plan = make_plan(2, patch=(32, 32, 1), name="vnet")
    network = build_network(plan, LABELS.outputs)
    network.network.in_tr.conv_block.adn.N.num_batches_tracked += 70_001
    save_model(Model((network,), plan, LABELS), tmp_path / "model")
    loaded = load_model(tmp_path / "model").networks[0]
    assert int(loaded.network.in_tr.conv_block.adn.N.num_batches_tracked) == 70_001


def test_float16_rounding_is_far_below_that_of_bf16_arithmetic(make_plan, tmp_path):
    plan = make_plan(patch=(16, 16, 16), features=(16, 32, 64))
    network = build_network(plan, LABELS.outputs).eval()
    save_model(Model((network,), plan, LABELS), tmp_path / "model")
    image = torch.randn(2, 1, 16, 16, 16)
    with torch.inference_mode():
        exact = network(image).logits
        stored = load_model(tmp_path / "model").networks[0](image).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(image).logits
    assert (stored - exact).std() < 2e-3 * exact.std() < 0.5 * (rounded - exact).std()


def test_loading_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(folder)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_replaces_a_model_but_nothing_else(make_model, folder, tmp_path):
    save_model(make_model(2), folder)
    assert {path.name for path in folder.iterdir()} == {"model.json", "fold_0.safetensors", "fold_1.safetensors"}

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(OutputError, match="there is something else than a model"):
        save_model(make_model(), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_float16_can_not_hold_are_not_saved(make_model, tmp_path, value):
    model = make_model()
    with torch.no_grad():
        model.networks[0].heads[0].bias[0] = value
    with pytest.raises(ModelError, match=r"heads\.0\.bias are not finite in float16"):
        save_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_digest_follows_weights_and_record(folder, change_record):
    digests = {model_digest(folder)}
    change_record(name="another")
    digests.add(model_digest(folder))
    tensors = load_file(folder / "weights.safetensors")
    tensors["heads.0.bias"] += 1
    save_file(tensors, folder / "weights.safetensors")
    digests.add(model_digest(folder))
    assert len(digests) == 3


def _rewrite(folder, change):
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path):
    for file in path.iterdir():
        file.unlink()


WRONG_WEIGHTS = {
    "missing": (lambda f: (f / "weights.safetensors").unlink(), "weights are missing"),
    "pickle": (
        lambda f: torch.save({"a": torch.zeros(1)}, f / "weights.safetensors"),
        "this is a pickle, which may run any code",
    ),
    "old pickle": (lambda f: (f / "weights.safetensors").write_bytes(b"\x80\x04N."), "this is a pickle"),
    "cut short": (lambda f: _cut(f / "weights.safetensors"), "the weights are damaged"),
    "no tensors": (lambda f: _rewrite(f, dict.clear), r"missing, such as decoder\.0"),
    "one missing": (lambda f: _rewrite(f, lambda t: t.pop("heads.0.bias")), r"1 missing, such as heads\.0\.bias"),
    "one more": (
        lambda f: _rewrite(f, lambda t: t.update(extra=torch.zeros(2))),
        "1 unknown, such as extra",
    ),
    "other shape": (
        lambda f: _rewrite(f, lambda t: t.update({"heads.0.bias": torch.zeros(7)})),
        r"1 of another shape, such as heads\.0\.bias: \(7,\) in place of \(3,\)",
    ),
    "not finite": (
        lambda f: _rewrite(f, lambda t: t["heads.0.bias"].fill_(torch.inf)),
        r"weights of heads\.0\.bias are not finite",
    ),
}


@pytest.mark.parametrize("kind", WRONG_WEIGHTS)
def test_wrong_weights(folder, kind):
    spoil, message = WRONG_WEIGHTS[kind]
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert str(caught.value).startswith(str(folder / "weights.safetensors"))
    assert caught.value.__cause__ is None


def test_a_header_length_that_looks_like_a_pickle(folder):
    weights = folder / "weights.safetensors"
    tensors = load_file(weights)
    for padding in range(0, 512, 8):
        save_file(tensors, weights, metadata={"padding": "x" * padding})
        if weights.read_bytes()[:1] == b"\x80":
            break
    assert weights.read_bytes()[:1] == b"\x80"
    load_model(folder)


WRONG_RECORDS = {
    "not there": (lambda f: (f / "model.json").unlink(), "no model folder, it has no model.json"),
    "empty folder": (_empty, "no model folder, it has no model.json"),
    "no JSON": (lambda f: (f / "model.json").write_text('{"name": '), "not readable as JSON"),
    "binary": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"), "not readable as JSON"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), "not a sound model"),
    "no plan": (lambda f: (f / "model.json").write_text('{"name": "x"}'), "not a sound model .*plan: Field required"),
}


@pytest.mark.parametrize("kind", WRONG_RECORDS)
def test_wrong_record(folder, kind):
    spoil, message = WRONG_RECORDS[kind]
    spoil(folder)
    for read in (load_model, model_digest):
        with pytest.raises(ModelError, match=message):
            read(folder)


def test_a_newer_format_is_told_from_a_wrong_one(folder, change_record):
    change_record(schema_version=2, something_new=True)
    with pytest.raises(ModelError, match=r"format 2 is newer than the 1 .* install the newest medseg"):
        load_model(folder)
    change_record(schema_version=1)
    with pytest.raises(ModelError, match="something_new"):
        load_model(folder)


def test_rules_for_a_structure_that_was_renamed_are_refused_before_a_scan_is_segmented(folder, change_record):
    change_record(postprocessing={"structures": {"liver_old": {"keep_largest": True}}})
    for read in (load_model, model_digest):
        with pytest.raises(ModelError, match=r"not a sound model \(postprocessing names \['liver_old'\]"):
            read(folder)


def test_a_model_of_an_earlier_medseg_names_no_modalities(folder):
    record = json.loads((folder / "model.json").read_text())
    del record["modalities"]
    (folder / "model.json").write_text(json.dumps(record))
    assert load_model(folder).modalities == ()


def test_a_record_can_not_name_files_elsewhere(folder, change_record):
    change_record(networks=2)
    with pytest.raises(ModelError, match=r"fold_0\.safetensors: the weights are missing"):
        load_model(folder)


def test_no_folder(tmp_path, folder):
    with pytest.raises(ModelError, match="there is no such model folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=f"this is a file; give the model's folder, {folder}"):
        load_model(folder / "weights.safetensors")


def test_reading_a_model_loads_neither_monai_nor_a_scan_library(folder):
    code = (
        "import sys; from pathlib import Path; from medseg.networks.model import load_model; "
        "import medseg.losses.segmentation; "
        "load_model(Path(sys.argv[1])); "
        "sys.exit(bool({'monai', 'nibabel', 'pydicom', 'torch._dynamo'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0
