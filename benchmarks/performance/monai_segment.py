"""Segment one scan with MONAI: its transforms, its sliding window, its way back; only the network is medseg's.

    monai/bin/python benchmarks/performance/monai_segment.py SCAN MODEL OUTPUT

Run in MONAI's environment (`peers.sh`). The pipeline is that of MONAI's bundles: load, orient, resample, scale; windows
of half overlap with Gaussian weights, two at a time (one is 2.4 to 3.4 times slower on CPUs); `Invertd` of the logits,
because an inverted mask would have nearest neighbours' steps; argmax; save.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from monai.data import decollate_batch, list_data_collate
from monai.inferers import sliding_window_inference
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
    Transform,
)

from medseg.networks.model import load_model
from medseg.plan import Plan


def main(scan: Path, model_folder: Path, output: Path) -> None:
    model = load_model(model_folder)
    network, plan = model.networks[0], model.plan
    prepare = preparation(plan)
    back = Compose(
        [
            Invertd("logits", prepare, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("logits", argmax=True),
            SaveImaged("logits", output_dir=str(output), output_postfix="", separate_folder=False, resample=False),
        ]
    )
    with torch.inference_mode():
        batch = list_data_collate([prepare({"image": str(scan)})])
        batch["logits"] = sliding_window_inference(
            batch["image"], plan.patch, 2, lambda windows: network(windows).logits, overlap=0.5, mode="gaussian"
        )
        for case in decollate_batch(batch):
            back(case)


def preparation(plan: Plan) -> Compose:
    """Return what brings a scan to the network's grid and scale."""
    rule = plan.normalisation[0]
    if rule.kind == "clip":
        low, high = ((bound - rule.mean) / rule.std for bound in (rule.low, rule.high))
        scale: Transform = ScaleIntensityRanged("image", rule.low, rule.high, low, high, clip=True)
    else:
        scale = NormalizeIntensityd("image")
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS"),
            Spacingd("image", pixdim=plan.spacing, mode="bilinear"),
            scale,
        ]
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
