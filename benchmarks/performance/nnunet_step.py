"""Time nnU-Net's own training steps: its trainer, its batch, its augmentation, without worker processes.

    nnunet/bin/python benchmarks/performance/nnunet_step.py STEPS

Run in nnU-Net's environment, with its three folders set and the dataset preprocessed. Prints a line of JSON: seconds of
each step as its loop does it (`step`: batch, forward, loss, backward, optimiser), and of the batch alone (`batch`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

# read on import; worker processes would share the two cores with the step
os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

WARM_UP = 3


def main(steps: int) -> None:
    prepared = Path(os.environ["nnUNet_preprocessed"]) / "Dataset500_Benchmark"  # noqa: SIM112
    plans, dataset = (json.loads((prepared / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    plans["continue_training"] = False  # what nnUNetv2_train hands over in the plan
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    times: dict[str, list[float]] = {"step": [], "batch": []}
    for _ in range(WARM_UP + steps):
        began = time.perf_counter()
        batch = next(trainer.dataloader_train)
        drawn = time.perf_counter()
        trainer.train_step(batch)
        times["step"].append(time.perf_counter() - began)
        times["batch"].append(drawn - began)
    plan = plans["configurations"]["3d_fullres"]
    shape = {"patch": plan["patch_size"][::-1], "batch_size": plan["batch_size"]}
    shape["features"] = plan["architecture"]["arch_kwargs"]["features_per_stage"]
    print(json.dumps({name: values[WARM_UP:] for name, values in times.items()} | shape))


if __name__ == "__main__":
    main(int(sys.argv[1]))
