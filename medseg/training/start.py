"""What a training starts from: a model to fine-tune, or pre-trained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from medseg.labels import LabelMap
from medseg.networks import pretrained
from medseg.networks.model import load_model, model_digest
from medseg.plan import Plan
from medseg.provenance import learnt_cases
from medseg.rules import PostprocessingRules


@dataclass(frozen=True, slots=True)
class Start:
    """Weights with the plan that they need.

    Attributes
    ----------
    plan : how scans are prepared and the network is built.
    labels : what the model segments; None: pre-trained weights know no structure.
    put_into : copies the weights into a fresh network of the plan.
    digest : names what the weights come from, so that no checkpoint is continued with others.
    postprocessing : clean-up of the masks that was chosen for the model; what comes of it keeps that.
    modalities : DICOM modalities that the model learnt from; empty: not known.
    learnt : ids of the cases that it learnt from; empty: not known, or without their masks.
    """

    plan: Plan
    labels: LabelMap | None
    put_into: Callable[[nn.Module], object]
    digest: str
    postprocessing: PostprocessingRules | None = None
    modalities: tuple[str, ...] = ()
    learnt: tuple[str, ...] = ()


def load_start(folder: Path) -> Start:
    """Read a model folder, or a folder of pre-trained weights.

    Raises
    ------
    ModelError
        If the folder is neither, or can't be used.
    """
    if (folder / pretrained.RECORD).is_file():
        weights = pretrained.load_pretrained(folder)
        return Start(weights.plan, None, weights.put_into, pretrained.pretrained_digest(folder))
    model = load_model(folder)
    state = model.networks[0].state_dict()

    def put_into(network: nn.Module) -> object:
        return network.load_state_dict(state)

    return Start(
        plan=model.plan,
        labels=model.labels,
        put_into=put_into,
        digest=model_digest(folder),
        postprocessing=model.postprocessing,
        modalities=model.modalities,
        learnt=learnt_cases(model.provenance),
    )
