"""Pre-trained weights on disk: exact, whole, and refused where a model is asked for."""

from __future__ import annotations

import json

import pytest
import torch

from medseg.errors import ModelError, PlanError
from medseg.networks.build import build_network
from medseg.networks.model import load_model
from medseg.networks.pretrained import Pretrained, body, check_pretrainable, load_pretrained, save_pretrained
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

PLAN = Plan(
    dimensions=3,
    spacing=(1.0, 1.0, 1.0),
    slice_axis=2,
    patch=(16, 16, 16),
    batch=2,
    channels=("mr",),
    normalisation=(ChannelNormalisation(kind="zscore"),),
    mirror=(True, True, True),
    network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    network = build_network(PLAN, 1)
    save_pretrained(Pretrained(body(network), PLAN, 0.5, {"cases": 3}), tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_encoder_and_decoder_arrive_exactly_and_heads_stay_fresh(folder):
    torch.manual_seed(0)
    source = build_network(PLAN, 1).state_dict()
    torch.manual_seed(1)
    network = build_network(PLAN, 5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    loaded = load_pretrained(folder)
    loaded.put_into(network)
    assert (loaded.plan, loaded.explained, loaded.provenance) == (PLAN, 0.5, {"cases": 3})
    heads = [name for name in before if name.startswith("heads.")]
    assert heads
    for name, tensor in network.state_dict().items():
        expected = before[name] if name in heads else source[name].half().float()
        assert torch.equal(tensor, expected), name
        assert name in heads or torch.equal(tensor, before[name]) == (before[name].unique().numel() == 1)


def test_they_are_no_model(folder):
    with pytest.raises(ModelError, match="know no structure yet; train them first: medseg train --init"):
        load_model(folder)


def test_loading_draws_no_random_number(folder):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)


def test_weights_of_another_plan_are_refused(folder):
    record = json.loads((folder / "pretrained.json").read_text())
    record["plan"]["network"]["features"] = [4, 16]
    (folder / "pretrained.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"don't fit the plan in pretrained\.json"):
        load_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "{}", '{"schema_version": 9}'])
def test_a_damaged_record_is_one_sentence(folder, text):
    (folder / "pretrained.json").write_text(text)
    with pytest.raises(ModelError, match=r"pretrained\.json"):
        load_pretrained(folder)


def test_a_pickle_is_never_loaded(folder):
    torch.save({"a": torch.zeros(1)}, folder / "weights.safetensors")
    with pytest.raises(ModelError, match="pickle"):
        load_pretrained(folder)


def test_other_networks_are_refused():
    plan = PLAN.model_copy(update={"network": PLAN.network.model_copy(update={"name": "vnet"})})
    with pytest.raises(PlanError, match="only the network unet"):
        check_pretrainable(plan)
