"""Compare an exported model with its source, probability by probability and decision by decision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.config import InferenceConfig
from medseg.errors import ModelError
from medseg.export.windows import Window
from medseg.inference.forward import EnsembleForward
from medseg.inference.restore import decide
from medseg.inference.uncertainty import AgreementMeter
from medseg.labels import LabelMap
from medseg.networks.exported import Agreement, Precision
from medseg.networks.model import Model

LEAST_EQUAL: dict[Precision, float] = {"float32": 0.9999, "bf16": 0.995, "int8": 0.99}
"""Share of the voxels whose label must be the source's. A hundredth of a window is a layer of voxels around a
structure of a tenth of it: more is another model."""

MILDER: dict[Precision, str] = {
    "float32": "",
    "bf16": "export it with --float32, ",
    "int8": "export it without --int8, ",
}
"""What to do first about an export that decides otherwise, where it was rounded."""

LEAST_DICE = 0.8
"""Dice of each structure with the source's: one of few voxels could be lost without a hundredth of them changing.
Good exports have 0.99 and more, in 8 bits, too; of an untrained network 8 bits leave 0.89."""


def compare(model: Model, networks: Sequence[nn.Module], windows: Sequence[Window], *, from_scans: bool) -> Agreement:
    """Return how networks of another runtime answer in place of the model's own, which compute in float32."""
    forwards = [_forward(model, model.networks), _forward(model, networks)]
    largest, total, voxels, equal, drawn = 0.0, 0.0, 0, 0, AgreementMeter(model.labels)
    for window in windows:
        source, other = (forward(torch.from_numpy(window)[None]) for forward in forwards)
        difference = (_probabilities(source, model.labels) - _probabilities(other, model.labels)).abs()
        largest = max(largest, float(difference.max()))
        total += float(difference.mean())
        ours, theirs = (decide(logits.transpose(0, 1), model.labels) for logits in (source, other))
        drawn.add([theirs], ours)
        equal, voxels = equal + int((ours == theirs).sum()), voxels + ours.numel()
    return Agreement(
        windows=len(windows),
        from_scans=from_scans,
        largest_difference=round(largest, 6),
        mean_difference=round(total / len(windows), 8),
        equal=round(equal / voxels, 8),
        dice=drawn.finish(),
    )


def check(agreement: Agreement, precision: Precision, least: float | None = None) -> None:
    """Refuse an export that decides otherwise than its source.

    Parameters
    ----------
    least : share of the voxels that must get the same label, and Dice of each structure if it is lower than
        `LEAST_DICE`; None: those of the precision.

    Raises
    ------
    ModelError
        If fewer do, or a structure is another one.
    """
    wanted = LEAST_EQUAL[precision] if least is None else least
    if not agreement.equal >= wanted:
        raise ModelError(
            f"the exported model gives {agreement.equal:.4%} of the voxels the label that its source gives them, less "
            f"than {wanted:.2%}, so it was not written; {MILDER[precision]}calibrate it on scans that are more "
            "like those to be segmented, or say --least with a lower share"
        )
    found = {name: dice for name, dice in agreement.dice.items() if dice is not None}
    worst, limit = min(found, key=lambda name: found[name], default=""), min(LEAST_DICE, wanted)
    if worst and found[worst] < limit:
        raise ModelError(
            f"the exported model draws {worst} with a Dice of {found[worst]:.3f} against its source, less than "
            f"{limit:g}, so it was not written; {MILDER[precision]}calibrate it on scans that show {worst}, or "
            "say --least with a lower share"
        )


def _forward(model: Model, networks: Sequence[nn.Module]) -> EnsembleForward:
    config = InferenceConfig(flips=False, precision="float32")
    return EnsembleForward(networks, model.plan, config, torch.device("cpu"))


def _probabilities(logits: Tensor, labels: LabelMap) -> Tensor:
    return logits.sigmoid() if labels.regions else logits.softmax(1)
