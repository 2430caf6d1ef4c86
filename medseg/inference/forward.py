"""One forward pass over windows: arithmetic, mirroring, ensembles and 2D behind a single function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.config import InferenceConfig
from medseg.inference.channels_last import channels_last
from medseg.inference.hardware import choose_dtype
from medseg.inference.restore import decide
from medseg.inference.uncertainty import AgreementMeter
from medseg.inference.window import Slab, Tiling, stream_logits, tile
from medseg.networks.layout import lay_out
from medseg.outputs import NetworkOutput
from medseg.plan import Plan
from medseg.preprocessing.prepare import Prepared, pad_values, surround

LARGE_WINDOW = 64**3
"""Voxels of a window above which its layers keep all cores of a CPU busy alone."""


def windows_at_once(config: InferenceConfig, plan: Plan, device: torch.device) -> int:
    """Return how many windows a forward pass gets: as configured, but on a CPU large ones go one by one.

    96³ in a U-Net of 16 to 256 features takes 0.74 to 0.77 s of processor time in bf16 either way, and 170 to 290 MB
    less one by one (AMD EPYC, torch 2.13, November 2026).
    """
    is_large = math.prod(plan.patch) > LARGE_WINDOW
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
        agreement: AgreementMeter | None = None,
    ) -> None:
        self.networks = tuple(channels_last(network, device) for network in networks)
        self.plan, self.device = plan, device
        self.dtype = choose_dtype(config.precision, device)
        if device.type == "cuda":
            for network in self.networks:
                lay_out(network, self.dtype)
        self.flips = mirrorings(plan) if config.flips else ((),)
        self.agreement = agreement

    def __call__(self, windows: Tensor) -> Tensor:
        """Return float32 logits (B, K, X, Y, Z) of windows (B, C, X, Y, Z)."""
        windows = windows.to(self.device)
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with torch.no_grad(), autocast:
            passes = [(network, dims) for network in self.networks for dims in self.flips]
            total = self._pass(windows, *passes[0])
            decided = self._decide(total, passes)
            for network, dims in passes[1:]:
                logits = self._pass(windows, network, dims)
                decided += self._decide(logits, passes)
                total += logits
        if len(passes) > 1:
            total /= len(passes)
        if decided and self.agreement:
            self.agreement.add(decided, decide(total.transpose(0, 1), self.agreement.labels))
        return total

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
        # as they are stitched, whatever the layout of the network's maps
        logits = logits.to(torch.float32, memory_format=torch.contiguous_format)
        return logits.flip(dims) if dims else logits


class FeatureRecorder(nn.Module):
    """A network that keeps the features of its first answer since the last `take`: those of windows as they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._features: Tensor | None = None

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return what the network does."""
        output: NetworkOutput = self.network(image)
        if self._features is None:
            self._features = output.features
        return output

    def take(self) -> Tensor | None:
        """Return the features (B, F, *coarse) and forget them; None of a network that shows none."""
        features, self._features = self._features, None
        return features


def stream_scan(
    forward: Callable[[Tensor], Tensor],
    prepared: Prepared,
    plan: Plan,
    config: InferenceConfig,
    *,
    outputs: int,
    device: torch.device,
) -> Iterator[Slab]:
    """Yield what `forward` answers over a whole scan, slab by slab; memory doesn't grow with the scan.

    Parameters
    ----------
    forward : maps windows (B, C, X, Y, Z) to logits (B, outputs, X, Y, Z) on `device`.
    device : that the answers are put together on.
    """
    tiling, image = tile_scan(prepared, plan, config.overlap)
    batch = windows_at_once(config, plan, device)
    return stream_logits(torch.from_numpy(image), forward, tiling, outputs=outputs, batch=batch, device=device)


def tile_scan(prepared: Prepared, plan: Plan, overlap: float) -> tuple[Tiling, NDArray[np.float32]]:
    """Return where the plan's windows lie in a scan, and its image (C, X, Y, Z), enlarged to at least one window.

    Parameters
    ----------
    overlap : least share of a window that the next one covers again, in [0, 1).
    """
    tiling = tile(prepared.grid.shape, plan, overlap)
    return tiling, surround(prepared.image, tiling.before, tiling.shape, pad_values(plan))


def streamed_axis(prepared: Prepared, plan: Plan) -> int:
    """Return the axis of a scan that slabs follow each other along."""
    return tile(prepared.grid.shape, plan, 0.0).axis


def mirrorings(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Return every combination of the dimensions of (B, C, X, Y, Z) that the plan allows to mirror.

    Axes along which a window is one voxel thick (the slice axis in 2D) make no difference and are left
    out.
    """
    dims = [2 + axis for axis in range(3) if plan.mirror[axis] and plan.patch[axis] > 1]
    return tuple(chosen for count in range(len(dims) + 1) for chosen in combinations(dims, count))
