"""Hidden blocks: the right share of whole blocks, the same at every call, and nothing of the masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.config import AugmentationConfig, PretrainingConfig
from medseg.data.hiding import HIDDEN, HidingStream, block_sizes, hide
from medseg.data.sampling import Randomness
from medseg.errors import ConfigError, DatasetError


def stream_of(cases, plan, **config):
    return HidingStream(cases, plan, AugmentationConfig(), PretrainingConfig(**config), Randomness(3))


@given(
    patch=st.tuples(*[st.integers(1, 20)] * 3),
    block=st.tuples(*[st.integers(1, 9)] * 3),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_whole_blocks_are_hidden_and_as_many_as_asked_for(patch, block, share, seed):
    hidden = hide(patch, block, share, np.random.default_rng(seed))
    assert hidden.shape == patch
    grid = [-(-n // b) for n, b in zip(patch, block, strict=True)]
    corners = hidden[tuple(np.ix_(*(np.arange(g) * b for g, b in zip(grid, block, strict=True))))]
    count = corners.size
    assert corners.sum() == min(max(1, round(share * count)), max(1, count - 1))
    for axis, edge in enumerate(block):
        corners = corners.repeat(edge, axis)
    assert np.array_equal(hidden, corners[: patch[0], : patch[1], : patch[2]])


def test_blocks_have_equal_edges_in_mm(plan_of):
    assert block_sizes(8, plan_of(spacing=(1.0, 1.0, 1.0))) == (8, 8, 8)
    assert block_sizes(8, plan_of(spacing=(0.7, 0.7, 5.6))) == (8, 8, 1)
    assert block_sizes(8, plan_of(spacing=(1.0, 1.0, 20.0))) == (8, 8, 1)


def test_the_same_step_gives_the_same_batch_and_another_one_another(case_of, plan_of):
    plan = plan_of()
    stream = stream_of([case_of(seed=0), case_of(seed=1)], plan)
    again = stream_of([case_of(seed=0), case_of(seed=1)], plan).batch(4)
    batch = stream.batch(4)
    assert batch["image"].shape == (2, 1, 16, 16, 16)
    assert batch["target"].shape == (2, 16, 16, 16)
    assert torch.equal(batch["image"], again["image"])
    assert torch.equal(batch["target"], again["target"])
    other = stream.batch(5)
    assert not torch.equal(batch["target"], other["target"])
    assert not torch.equal(batch["image"], other["image"])
    assert not torch.equal(batch["target"][0], batch["target"][1])


class Watch(TorchDispatchMode):
    """Notes on how many threads torch computes."""

    def __init__(self):
        super().__init__()
        self.threads = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.threads.add(torch.get_num_threads())
        return function(*args, **(kwargs or {}))


def test_a_batch_is_made_whole_beside_training(case_of, plan_of):
    """On a GPU what is left for later runs in the step's own stream, and reads patches that may be gone by then."""
    stream, before = stream_of([case_of()], plan_of()), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Watch() as watch:
            stream.batch(0)
    finally:
        torch.set_num_threads(before)
    assert watch.threads == {1}


def test_masks_make_no_difference(case_of, plan_of):
    case, bare = case_of(), case_of()
    bare.target[:] = 0
    batches = [stream_of([source], plan_of()).batch(0) for source in (case, bare)]
    assert torch.equal(batches[0]["image"], batches[1]["image"])
    assert set(batches[0]["target"].unique().tolist()) == {0, HIDDEN}


def test_intensities_are_the_scan_s_own(case_of, plan_of):
    # Noise, blur and gamma on the target would have to be guessed.
    still = AugmentationConfig(rotation_p=0, scaling_p=0, mirror_p=0, noise_p=1, blur_p=1, gamma_p=1)
    case = case_of()
    batch = HidingStream([case], plan_of(), still, PretrainingConfig(), Randomness(0)).batch(0)
    assert np.isin(batch["image"].numpy(), case.image).all()


def test_a_2d_plan_loses_its_slice_axis(case_of, plan_of):
    plan = plan_of(patch=(16, 16, 1), dimensions=2, spacing=(1.0, 1.0, 4.0))
    batch = stream_of([case_of()], plan).batch(0)
    assert batch["image"].shape == (2, 1, 16, 16)
    assert batch["target"].shape == (2, 16, 16)
    assert 0 < batch["target"].float().mean() < 1


def test_no_scan_is_one_sentence(plan_of):
    with pytest.raises(DatasetError, match="no scan to pre-train on"):
        stream_of([], plan_of())


def test_a_block_as_large_as_the_patch_is_one_sentence(case_of, plan_of):
    with pytest.raises(ConfigError, match=r"pretraining\.block 16 covers the whole patch 16x16x16"):
        stream_of([case_of()], plan_of(), block=16)
