"""Patches that a GPU makes, against those of the CPU."""

from __future__ import annotations

import pytest
import torch

from medseg.config import AugmentationConfig, PretrainingConfig, TrainingConfig, UnlabelledConfig
from medseg.data.batches import BatchStream, keep_until_used, prefetch
from medseg.data.hiding import HidingStream
from medseg.data.mixing import MixedStream
from medseg.data.sampling import Randomness

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

CHANGING = AugmentationConfig(
    rotation_p=0.8,
    scaling_p=0.8,
    elastic_p=0.8,
    elastic_mm=1.0,
    noise_p=0.0,
    low_resolution_p=0.0,
    blur_p=0.8,
    contrast_p=0.8,
    gamma_p=0.8,
)
"""All but noise, whose numbers are each device's own, and low resolution, whose nearest voxel may be another."""


@pytest.fixture
def streams(plan_of, case_of):
    """Labelled and mixed batches of a device, and batches with hidden blocks."""

    def make(device):
        plan, randomness, settings = plan_of(), Randomness(1), TrainingConfig(steps=100)
        cases = [case_of(seed=seed) for seed in range(3)]
        labelled = BatchStream(cases, plan, CHANGING, settings, randomness, device)
        mixing = UnlabelledConfig(method="mix-teacher", labelled_first=0.0)
        mixed = MixedStream(labelled, cases, CHANGING, settings, randomness, mixing)
        hiding = HidingStream(cases, plan, CHANGING, PretrainingConfig(block=4), randomness, device)
        return labelled, mixed, hiding

    return make


def flat(batch):
    return {**batch, **batch["unlabelled"]} if "unlabelled" in batch else batch


def sum_of(batch):
    """The sum of all images of a batch."""
    return sum(images.double().sum() for name, images in flat(batch).items() if name in ("image", "weak", "strong"))


def test_patches_are_those_of_the_cpu(streams):
    for cpu, gpu in zip(streams(torch.device("cpu")), streams(torch.device("cuda", 0)), strict=True):
        batches = zip(prefetch(cpu, 0, 12, 2), prefetch(gpu, 0, 12, 3), strict=True)
        for expected, found in ((flat(one), flat(other)) for one, other in batches):
            assert {value.device.type for value in found.values() if isinstance(value, torch.Tensor)} == {"cuda"}
            for name in ("image", "weak", "strong", "weight"):
                if name in expected:
                    torch.testing.assert_close(found[name].cpu(), expected[name], rtol=1e-3, atol=1e-3)
            for name in ("target", "paste"):
                if name in expected:
                    assert (found[name].cpu() == expected[name]).float().mean() > 0.999


def test_batches_stay_whole_while_the_step_is_behind(streams):
    """Memory of a batch that nobody holds must not be given to the next one before what is queued has read it."""
    for stream in streams(torch.device("cuda", 0)):
        sums = []
        for batch in prefetch(stream, 0, 20, 3):
            keep_until_used(batch)
            torch.cuda._sleep(20_000_000)
            sums.append(sum_of(batch))
        expected = [sum_of(stream.batch(step)) for step in range(20)]
        torch.testing.assert_close(torch.stack(sums), torch.stack(expected))
