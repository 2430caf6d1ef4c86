"""One forward pass over windows: arithmetic, mirroring, ensembles and 2D behind a single function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from medseg.config import InferenceConfig
from medseg.inference.channels_last import OneByOne, one_by_one
from medseg.inference.hardware import choose_dtype
from medseg.inference.restore import decide
from medseg.inference.uncertainty import Agreement
from medseg.networks.runtimes import ExportedNetwork
from medseg.plan import Plan

LONE_WINDOW_VOXELS = 64**3
"""A single float32 window up to this size is computed twice, which is faster than once: torch sends a
batch of one through a slow convolution where channels x depth x height <= 20480. 64³ in a plain U-Net:
0.24 s alone, 0.15 s as a pair; at 96³ most layers are above the limit (torch 2.13, two cores)."""


def windows_at_once(config: InferenceConfig, plan: Plan, device: torch.device) -> int:
    """Return how many windows a forward pass gets: as configured, but on a CPU large ones go one by one.

    A large window keeps all cores busy alone: 96³ in a U-Net of 16 to 256 features takes 0.74 to 0.77 s of
    processor time in bf16 either way, and 170 to 290 MB less one by one (AMD EPYC, torch 2.13, November 2026).
    """
    is_large = math.prod(plan.patch) > LONE_WINDOW_VOXELS
    return 1 if is_large and device.type == "cpu" else config.window_batch


class EnsembleForward:
    """Maps windows to logits with one or several networks in evaluation mode.

    Averaged are logits, not probabilities, over networks and mirrorings, as in nnU-Net: interpolation
    and argmax on the way back work on logits, and confident networks should weigh more.

    Parameters
    ----------
    networks : on `device`, in evaluation mode.
    plan : gives dimensions, slice axis and the axes that may be mirrored.
    config : precision and flips.
    agreement : told what each pass and their average decide; None: nobody wants to know.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        plan: Plan,
        config: InferenceConfig,
        device: torch.device,
        agreement: Agreement | None = None,
    ) -> None:
        self.networks = tuple(one_by_one(network, device) for network in networks)
        self.plan, self.device = plan, device
        self.dtype = choose_dtype(config.precision, device)
        self.flips = mirrorings(plan) if config.flips else ((),)
        self.agreement = agreement

    def __call__(self, windows: Tensor) -> Tensor:
        """Return float32 logits (B, K, X, Y, Z) of windows (B, C, X, Y, Z)."""
        windows = windows.to(self.device)
        lone = self._is_slow_alone(windows)
        batch = windows.repeat(2, 1, 1, 1, 1) if lone else windows
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with torch.no_grad(), autocast:
            passes = [(network, dims) for network in self.networks for dims in self.flips]
            total = self._pass(batch, *passes[0])
            decided = self._decide(total, passes)
            for network, dims in passes[1:]:
                logits = self._pass(batch, network, dims)
                decided += self._decide(logits, passes)
                total += logits
        if len(passes) > 1:
            total /= len(passes)
        if decided and self.agreement:
            self.agreement.add(decided, decide(total.transpose(0, 1), self.agreement.labels))
        return total[: len(windows)]

    def _decide(self, logits: Tensor, passes: Sequence[object]) -> list[Tensor]:
        """Return what one of several passes decides, a byte a voxel; nothing if nobody wants to know."""
        if self.agreement is None or len(passes) == 1:
            return []
        return [decide(logits.transpose(0, 1), self.agreement.labels)]

    def _pass(self, windows: Tensor, network: nn.Module, dims: tuple[int, ...]) -> Tensor:
        """Return one network's logits of mirrored windows, mirrored back."""
        mirrored = windows.flip(dims) if dims else windows
        if self.plan.dimensions == 2:
            axis = 2 + self.plan.slice_axis
            logits = network(mirrored.squeeze(axis)).logits.unsqueeze(axis)
        else:
            logits = network(mirrored).logits
        logits = logits.float()
        return logits.flip(dims) if dims else logits

    def _is_slow_alone(self, windows: Tensor) -> bool:
        return (
            len(windows) == 1
            and not any(isinstance(part, ExportedNetwork | OneByOne) for n in self.networks for part in n.modules())
            and self.device.type == "cpu"
            and self.dtype == torch.float32
            and math.prod(windows.shape[2:]) <= LONE_WINDOW_VOXELS
        )


def mirrorings(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Return every combination of the dimensions of (B, C, X, Y, Z) that the plan allows to mirror.

    Axes along which a window is one voxel thick (the slice axis in 2D) make no difference and are left
    out.
    """
    dims = [2 + axis for axis in range(3) if plan.mirror[axis] and plan.patch[axis] > 1]
    return tuple(chosen for count in range(len(dims) + 1) for chosen in combinations(dims, count))
