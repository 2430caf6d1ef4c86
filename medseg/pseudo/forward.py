"""One look of all teachers at a scan: their logits, a second opinion from their features, and how they agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medseg.boxes import box_at
from medseg.config import InferenceConfig
from medseg.inference.channels_last import channels_last
from medseg.inference.forward import EnsembleForward, FeatureRecorder, stream_scan, tile_scan
from medseg.inference.restore import decide
from medseg.inference.uncertainty import AgreementMeter
from medseg.inference.window import Slab
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.losses.prototypes import similarity
from medseg.plan import Plan
from medseg.preprocessing.prepare import Prepared
from medseg.pseudo.teachers import Teachers


class Decisions(AgreementMeter):
    """Keeps what single passes decide, instead of counting."""

    def __init__(self, labels: LabelMap) -> None:
        super().__init__(labels)
        self.passes: list[Tensor] = []

    def add(self, passes: Sequence[Tensor], average: Tensor) -> None:
        """Keep the decisions of passes over the same windows."""
        self.passes += passes


class Views:
    """Dice of each two views (teachers, mirrorings) of a scan; windows that overlap count as often as they are seen."""

    def __init__(self, labels: LabelMap) -> None:
        self.labels = labels
        self._common: Tensor | None = None

    def add(self, decided: Sequence[Tensor]) -> None:
        """Count what V views decide of the same windows."""
        views = torch.stack([view.reshape(-1) for view in decided])
        views = views[:, (views != 0).any(0)]
        targets = range(1, len(self.labels.targets) + 1)
        members = ((views == target).float() for target in targets)
        common = torch.stack([member @ member.T for member in members]).double().cpu()
        self._common = common if self._common is None else self._common + common

    def dice(self) -> float | None:
        """Return the mean Dice over pairs and targets; None with a single view, or where no view finds anything."""
        if self._common is None or self._common.shape[1] < 2:
            return None
        sizes = self._common.diagonal(dim1=1, dim2=2)
        total = sizes[:, :, None] + sizes[:, None, :]
        pairs = torch.ones_like(total[0]).triu(1).bool() & (total > 0)
        return float((2 * self._common / total)[pairs].mean()) if pairs.any() else None


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What was seen besides the logits, once they are all read.

    Attributes
    ----------
    agreement : mean Dice of each two views.
    features : of each teacher, (F,) mean of all features, of length 1; empty where they are not shown.
    """

    agreement: float | None
    features: tuple[Tensor, ...]


class TeachersForward:
    """Maps windows to the logits of every teacher, and to similarities of their features to class prototypes.

    Each teacher's logits are averaged over its mirrorings, as in inference. Channels: K logits a teacher, then, with
    prototypes, one similarity a decision, averaged over the teachers.

    Parameters
    ----------
    config : precision, flips.
    prototypes : of each teacher, (decisions, F); None: no second opinion.
    """

    def __init__(
        self,
        teachers: Teachers,
        config: InferenceConfig,
        device: torch.device,
        prototypes: Sequence[Tensor] | None = None,
    ) -> None:
        self.teachers, self.config, self.device, self.prototypes = teachers, config, device, prototypes
        networks = [member.network.to(device).eval() for member in teachers.members]
        self._recorders = [FeatureRecorder(channels_last(network, device)) for network in networks]
        self._decisions = Decisions(teachers.labels)
        plan = teachers.plan
        self._forwards = [EnsembleForward([one], plan, config, device, self._decisions) for one in self._recorders]
        self._views = Views(teachers.labels)
        self._sums: list[Tensor] = []

    @property
    def outputs(self) -> int:
        """Number of channels."""
        labels = self.teachers.labels
        opinions = len(labels.targets) + 1 if self.prototypes is not None else 0
        return len(self._forwards) * labels.outputs + opinions

    def __call__(self, windows: Tensor) -> Tensor:
        """Return (B, outputs, X, Y, Z) float32 of windows (B, C, X, Y, Z)."""
        logits, opinions, decided = [], [], []
        for number, (recorder, forward) in enumerate(zip(self._recorders, self._forwards, strict=True)):
            logits.append(forward(windows))
            features = recorder.take()
            decided += self._take_decisions(logits[-1])
            if features is None:
                continue
            features = with_slice_axis(features.float(), self.teachers.plan)
            self._pool(number, features)
            if self.prototypes is not None:
                opinions.append(similarity(features, self.prototypes[number], windows.shape[2:]))
        self._views.add(decided)
        if opinions:
            logits.append(torch.stack(opinions).mean(0))
        return torch.cat(logits, 1)

    def finish(self) -> Look:
        """Return what was seen since the last call."""
        look = Look(self._views.dice(), tuple(functional.normalize(sums, dim=0).cpu() for sums in self._sums))
        self._views, self._sums = Views(self.teachers.labels), []
        return look

    def _take_decisions(self, logits: Tensor) -> list[Tensor]:
        passes, self._decisions.passes = self._decisions.passes, []
        if not passes:
            return [decide(logits.transpose(0, 1), self.teachers.labels)]
        return passes

    def _pool(self, number: int, features: Tensor) -> None:
        total = features.flatten(2).sum((0, 2))
        if number < len(self._sums):
            self._sums[number] += total
        else:
            self._sums.append(total)


def stream(forward: TeachersForward, prepared: Prepared) -> Iterator[Slab]:
    """Yield the channels of `forward` over a whole scan, slab by slab."""
    plan, config = forward.teachers.plan, forward.config
    return stream_scan(forward, prepared, plan, config, outputs=forward.outputs, device=forward.device)


def with_slice_axis(features: Tensor, plan: Plan) -> Tensor:
    """Return features (B, F, *coarse) with three axes; those of a 2D network lack the slices'."""
    return features.unsqueeze(2 + plan.slice_axis) if plan.dimensions == 2 else features


def windows_of(prepared: Prepared, truth: NDArray[np.uint8], plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield windows that cover a scan, as images (1, C, X, Y, Z) and decisions (1, X, Y, Z), 255 outside the scan."""
    tiling, array = tile_scan(prepared, plan, 0.0)
    image = torch.from_numpy(array)
    around = torch.full(tiling.shape, IGNORE_INDEX, dtype=torch.uint8)
    around[box_at(tiling.before, truth.shape)] = torch.from_numpy(truth)
    for origin in tiling.origins:
        x, y, z = box_at(origin, tiling.window)
        yield image[None, :, x, y, z], around[None, x, y, z]
