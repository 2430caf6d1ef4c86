"""Training on a real GPU, in every arithmetic and with unlabelled scans."""

from __future__ import annotations

import pytest
import torch

from medseg.config import InferenceConfig, UnlabelledConfig
from medseg.inference.predictor import Predictor
from medseg.io.nifti import read_nifti
from medseg.networks.model import load_model
from medseg.training.run import RunOptions, run_training

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

MIXED = {"method": "mix-teacher", "labelled_weight": 0.5, "labelled_first": 0.5}
"""From the first step on, an averaged network of random weights would teach: sixty steps then end at a Dice of 0.3 to
0.9, by the luck of the rounding. Like this they end at 0.91 to 0.94, in every arithmetic and with other noise (on a
CPU)."""


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("unlabelled", [{}, MIXED])
def test_a_network_learns_on_a_gpu_and_answers_alike_on_the_cpu(experiment, blobs, tmp_path, precision, unlabelled):
    config = experiment.model_copy(
        update={
            "training": experiment.training.model_copy(update={"precision": precision}),
            "dataset": experiment.dataset.model_copy(update={"train": ["case_0", "case_1", "case_2"]}),
            "unlabelled": UnlabelledConfig(**unlabelled),
        }
    )
    run = run_training(config, tmp_path / "run", RunOptions(device="cuda"))
    assert run.mean_dice > 0.5
    scan = read_nifti(blobs / "images" / "case_4.nii.gz")
    masks = [
        Predictor(load_model(run.model), InferenceConfig(precision=arithmetic), torch.device(device)).predict(scan).mask
        for device, arithmetic in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bf16"))
    ]
    exact, single, half = (mask.array for mask in masks)
    assert (single == exact).mean() > 0.999
    assert (half == exact).mean() > 0.99
