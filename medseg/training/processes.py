"""Devices and processes: one process, or as many as torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from lightning_fabric import Fabric

from medseg.config import ExperimentConfig
from medseg.inference.device import choose_device, choose_precision

T = TypeVar("T")

FABRIC_PRECISION: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Fabric's words for ours. Weights stay float32; losses are computed in float32 by the losses themselves."""


def launch(device: str, config: ExperimentConfig) -> Fabric:
    """Start Fabric on the device; under torchrun, one process of a DDP group (nccl on GPUs, gloo on CPUs)."""
    chosen = choose_device(device)
    precision = FABRIC_PRECISION[choose_precision(config.training.precision, chosen)]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    devices: Any = local if distributed or chosen.type == "cpu" else [chosen.index or 0]
    fabric = Fabric(
        accelerator=chosen.type,
        devices=devices,
        num_nodes=int(os.environ.get("WORLD_SIZE", "1")) // local,
        strategy="ddp" if distributed else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


def first_process_first(fabric: Fabric, work: Callable[[], T]) -> T:
    """Run `work` on the first process, then on the others, which find its files on disk."""
    if fabric.is_global_zero:
        result = work()
    fabric.barrier()
    if not fabric.is_global_zero:
        result = work()
    return result
