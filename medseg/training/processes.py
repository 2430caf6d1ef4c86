"""Devices and processes: one process, or as many as torchrun starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from medseg.config import ExperimentConfig
from medseg.errors import ConfigError
from medseg.inference.hardware import choose_device, choose_dtype, fit_threads, keep_memory

T = TypeVar("T")

FABRIC_PRECISION: dict[torch.dtype, Any] = {
    torch.float32: "32-true",
    torch.bfloat16: "bf16-mixed",
    torch.float16: "16-mixed",
}
"""Fabric's words for the arithmetic of the layers. Weights stay float32, and so do the losses."""

PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which prepares scans and validates alone. Torch gives up after half an
hour, before some hundred CTs are prepared or scored. Of a process that dies torchrun knows, and ends the others."""


def launch(device: str, config: ExperimentConfig) -> Fabric:
    """Start Fabric on the device; under torchrun, one process of a DDP group (nccl on GPUs, gloo on CPUs)."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets with the arithmetic it chose
    chosen = choose_device(device)
    keep_memory()
    fit_threads()
    local, world = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    devices: Any = local if world > 1 or chosen.type == "cpu" else [chosen.index or 0]
    fabric = Fabric(
        accelerator=chosen.type,
        devices=devices,
        num_nodes=world // local,
        strategy=DDPStrategy(timeout=PATIENCE) if world > 1 else "auto",
        precision=FABRIC_PRECISION[choose_dtype(config.training.precision, chosen)],
    )
    fabric.launch()
    return fabric


def check_alone(what: str) -> None:
    """Refuse to do in each of the processes that torchrun starts what one of them is meant to do.

    Raises
    ------
    ConfigError
        If there are several.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if int(count) > 1:
        raise ConfigError(
            f"{what} in one process, and torchrun started {count}, which would be in each other's way: "
            "start it without torchrun"
        )


def first_process_first(fabric: Fabric, work: Callable[[], T]) -> T:
    """Run `work` on the first process, then on the others, which find its files on disk."""
    if fabric.is_global_zero:
        result = work()
    fabric.barrier()
    if not fabric.is_global_zero:
        result = work()
    return result
