"""What a killed training goes on from, as one file that appears whole.

Batches are a pure function of the step, so weights, averaged weights, optimiser, what the method
remembers, the loss scale of fp16, step and torch's random state (dropout) are all there is to keep. Of several
processes each has a memory of its own, made of the patches that it saw. Files are read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import Precision
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from medseg.errors import ModelError
from medseg.io.files import atomic_file
from medseg.text import first_line
from medseg.training.methods import Method


@dataclass(slots=True)
class TrainingState:
    """Everything that changes while a network trains.

    Attributes
    ----------
    precision : scales the loss in fp16, by what overflowed before; keeps nothing in other arithmetic.
    step : optimiser steps done.
    elapsed_s : seconds of training so far, over all sittings.
    best_dice, stale : best mean validation Dice, and validations since; for early stopping.
    finished : the last step or an early stop was reached.
    settings : names what decides the result, so that nothing else goes on from it.
    """

    network: nn.Module
    average: AveragedModel
    method: Method
    optimiser: Optimizer
    precision: Precision
    step: int = 0
    elapsed_s: float = 0.0
    best_dice: float = -1.0
    stale: int = 0
    finished: bool = False
    settings: str = ""


def memory(state: TrainingState) -> dict[str, Any]:
    """Return what this process alone knows: what its method remembers, on the CPU, and its random state."""
    return {
        "method": {name: tensor.cpu() for name, tensor in state.method.state_dict().items()},
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all(),
    }


def save_checkpoint(state: TrainingState, path: Path, memories: Sequence[dict[str, Any]]) -> None:
    """Write the state; an interrupted write leaves the previous file.

    Parameters
    ----------
    memories : of each process, by its number.
    """
    values: dict[str, Any] = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "precision": state.precision.state_dict(),
        "memories": list(memories),
        **{name: getattr(state, name) for name in _PLAIN},
    }
    with atomic_file(path) as temporary:
        torch.save(values, temporary)


def load_checkpoint(state: TrainingState, path: Path, process: int = 0) -> None:
    """Bring `state` to where the file was written, by the process of this number.

    Raises
    ------
    ModelError
        If the file is damaged, or belongs to other settings or another network.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        if values["settings"] != state.settings:
            raise ModelError(
                f"{path}: this run was started with another configuration, plan or training set; "
                "go on with the same ones or choose a new output folder"
            )
        state.network.load_state_dict(values["network"])
        state.average.load_state_dict(values["average"])
        state.optimiser.load_state_dict(values["optimiser"])
        _lay_out(state.optimiser)
        own = values["memories"][process] if "memories" in values else values  # earlier checkpoints have the first's
        state.method.load_state_dict(own["method"])
        if values.get("precision"):  # earlier checkpoints lack it
            state.precision.load_state_dict(values["precision"])
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path}: the checkpoint can't be used ({first_line(error)}); delete it to start again"
        ) from None
    torch.set_rng_state(own["torch_rng"])
    if torch.cuda.is_available() and len(own["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(own["cuda_rng"])
    for name in _PLAIN:
        setattr(state, name, values[name])


def _lay_out(optimiser: Optimizer) -> None:
    """Have what an optimiser remembers lie in memory as its parameters do, whose layout is the device's.

    One kernel for a whole step goes through both as they lie: on a CPU it would give each weight another one's momentum
    without a word, on a GPU it refuses (torch 2.13).
    """
    for parameter, remembered in optimiser.state.items():
        for name, value in remembered.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                remembered[name] = torch.empty_like(parameter).copy_(value)


_PLAIN = ("step", "elapsed_s", "best_dice", "stale", "finished", "settings")
