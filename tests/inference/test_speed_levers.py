"""What makes segmenting fast changes no voxel: against the plain way, on phantoms and a real CT."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.config import InferenceConfig
from medseg.geometry import Grid
from medseg.inference.channels_last import channels_last
from medseg.inference.forward import windows_at_once
from medseg.inference.predictor import Predictor
from medseg.inference.restore import Restorer
from medseg.inference.window import blending_weights, stream_logits, tile
from medseg.io.nifti import read_nifti
from medseg.labels import LabelMap
from medseg.networks.build import build_network
from medseg.networks.model import Model
from medseg.phantom.protocols import NIFTI_PROTOCOLS, draw_scan
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.preprocessing.prepare import pad_values, prepare_image, surround
from medseg.volume import Volume

LABELS = LabelMap.parse({"a": 1, "b": 2, "c": 7})
CLIP = (ChannelNormalisation(kind="clip", low=-300, high=300, mean=0, std=150),)


@pytest.fixture
def model(make_plan):
    """A network with random weights, which answers differently everywhere, in windows of 16³ at 8 mm."""
    torch.manual_seed(3)
    plan = make_plan(patch=(16, 16, 16), spacing=(8.0, 8.0, 8.0), normalisation=CLIP)
    config = InferenceConfig(window_batch=1, precision="float32")
    return Model((build_network(plan, LABELS.outputs).eval(),), plan, LABELS, inference=config)


def plainly(model: Model, volume: Volume) -> tuple[np.ndarray, int]:
    """Every window through the network, one sum of the whole volume, restored in one piece; and the windows' number."""
    prepared = prepare_image(volume, model.plan)
    tiling = tile(prepared.grid.shape, model.plan, model.inference.overlap)
    image = torch.from_numpy(surround(prepared.image, tiling.before, tiling.shape, pad_values(model.plan)))
    weights = [blending_weights(starts, length) for starts, length in zip(tiling.starts, tiling.window, strict=True)]
    total = torch.zeros(LABELS.outputs, *tiling.shape)
    network = channels_last(model.networks[0], torch.device("cpu"))
    with torch.no_grad():
        for origin in tiling.origins:
            box = (slice(None), *(slice(o, o + n) for o, n in zip(origin, tiling.window, strict=True)))
            x, y, z = (weight[start] for weight, start in zip(weights, origin, strict=True))
            logits = network(image[box][None]).logits[0]
            total[box].addcmul_(logits, x[:, None, None] * y[:, None] * z)
    inside = tuple(slice(b, b + n) for b, n in zip(tiling.before, tiling.size, strict=True))
    restorer = Restorer(prepared.grid, volume.grid, LABELS, tiling.axis)
    restorer.add(0, total[(slice(None), *inside)])
    return restorer.finish().mask.array, len(tiling.origins)


def with_air(volume: Volume) -> Volume:
    """Return a scan with room around the patient, as in a large field of view."""
    array = np.pad(volume.array, [(0, 0), (60, 60), (60, 60), (0, 0)], constant_values=-1000)
    return Volume(array, Grid(array.shape[1:], volume.grid.affine))


def assert_equals_the_plain_way(model: Model, volume: Volume) -> None:
    seen: list[int] = []
    hook = model.networks[0].register_forward_pre_hook(lambda _, inputs: seen.append(1))
    fast = Predictor(model).predict(volume).mask.array
    hook.remove()
    plain, windows = plainly(model, volume)
    assert len(np.unique(plain)) > 2
    assert len(seen) < windows  # air was skipped
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("protocol", [NIFTI_PROTOCOLS[1], NIFTI_PROTOCOLS[2]], ids=lambda protocol: protocol.name)
def test_streaming_and_skipping_air_change_no_voxel_of_a_phantom(model, protocol):
    assert_equals_the_plain_way(model, with_air(draw_scan(protocol, (5,)).volume))


def test_streaming_and_skipping_air_change_no_voxel_of_a_real_ct(model):
    if not os.environ.get("MEDSEG_DATA"):
        pytest.skip("MEDSEG_DATA is not set: no real scans")
    volume = read_nifti(Path(os.environ["MEDSEG_DATA"]) / "ct" / "whole_body_ct_3mm.nii.gz")
    assert_equals_the_plain_way(model, with_air(volume))


@settings(max_examples=30)
@given(
    size=st.tuples(*[st.integers(1, 40)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.625]),
    batch=st.integers(1, 5),
)
def test_a_network_that_says_one_everywhere_is_stitched_to_one(size, overlap, batch):
    """Windows cover every voxel and their weights sum to one, whatever the batches and the buffer."""
    plan = Plan(
        dimensions=3,
        spacing=(1.0, 1.0, 1.0),
        slice_axis=2,
        patch=(8, 10, 12),
        batch=2,
        channels=("CT",),
        normalisation=CLIP,
        mirror=(True, True, True),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (1, 1, 1))),
    )
    tiling = tile(size, plan, overlap)
    image = torch.randn(1, *tiling.shape)
    reached = 0
    for slab in stream_logits(image, torch.ones_like, tiling, outputs=1, batch=batch):
        assert slab.start == reached
        reached += slab.logits.shape[1 + tiling.axis]
        torch.testing.assert_close(slab.logits, torch.ones_like(slab.logits), rtol=0, atol=1e-5)
    assert reached == size[tiling.axis]


def test_the_buffer_holds_the_layers_of_one_window_where_a_batch_begins_in_one_layer(make_plan):
    tiling = tile((40, 24, 24), make_plan(), 0.5)
    assert tiling.layers_for(2) == 8
    thin = tile((40, 8, 8), make_plan(), 0.5)
    assert thin.layers_for(2) == 12


def test_large_windows_go_one_by_one_on_a_cpu_alone(make_plan):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    large = make_plan(patch=(96, 96, 96))
    config = InferenceConfig(window_batch=2)
    assert windows_at_once(config, large, cpu) == 1
    assert windows_at_once(config, large, gpu) == 2
    assert windows_at_once(config, make_plan(patch=(64, 64, 64)), cpu) == 2


def test_masks_lie_in_memory_as_in_files(model):
    array = np.random.default_rng(0).normal(0, 100, (1, 20, 18, 16)).astype(np.float32)
    mask = Predictor(model).predict(Volume(array, Grid(array.shape[1:], np.eye(4)))).mask
    assert mask.array.flags.f_contiguous
