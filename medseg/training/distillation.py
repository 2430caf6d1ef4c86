"""Distillation: a small student learns from its labels, and from what trained teachers answer for the same patches.

    L = (1 - share) L_seg(labelled) + share (T^2 KL(teacher || student) + 1 - Dice(teacher, student))

The second part needs no labels, so patches of unlabelled scans take part in it. Teacher and student see the very same
augmented patch ("A good teacher is patient and consistent", Beyer et al., CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.config import DistillationConfig, ExperimentConfig, TrainingConfig
from medseg.data.batches import Batch
from medseg.errors import ModelError
from medseg.inference.hardware import choose_dtype
from medseg.labels import LabelMap
from medseg.losses.distillation import SoftTargetLoss
from medseg.losses.segmentation import SegmentationLoss
from medseg.networks.build import build_blank
from medseg.networks.layout import lay_out
from medseg.networks.model import Model, load_model, model_digest
from medseg.networks.pruning import narrowed_plan, prune
from medseg.outputs import NetworkOutput
from medseg.plan import Plan, Sizes
from medseg.provenance import learnt_cases
from medseg.text import shown_sizes
from medseg.training.methods import Terms
from medseg.training.start import Start


class Distilled(nn.Module):
    """Trains a student on labels and soft targets; a `Method` that remembers nothing.

    Parameters
    ----------
    loss : for the labelled patches.
    soft : for all patches.
    teachers : in evaluation mode; their logits are averaged.
    training : `precision` is used, for the teachers too.
    """

    def __init__(
        self,
        loss: SegmentationLoss,
        soft: SoftTargetLoss,
        teachers: Sequence[nn.Module],
        config: DistillationConfig,
        training: TrainingConfig,
    ) -> None:
        super().__init__()
        self.loss, self.soft, self.share, self.precision = loss, soft, config.share, training.precision
        self.teachers = tuple(teachers)  # a plain tuple: no checkpoint needs to hold them

    def step(self, network: nn.Module, batch: Batch, progress: float) -> Terms:
        """Return `loss` and its terms: those of the labels, divergence and Dice loss of the soft targets."""
        labelled = len(batch["image"])
        image = torch.cat((batch["image"], batch["unlabelled"]["strong"])) if "unlabelled" in batch else batch["image"]
        output: NetworkOutput = network(image)
        of_labelled = NetworkOutput(output.logits[:labelled], tuple(coarse[:labelled] for coarse in output.coarse))
        hard = self.loss(of_labelled, batch["target"])
        divergence, dice = self.soft(output.logits, self._answer(image))
        total = (1 - self.share) * hard.total + self.share * (divergence + dice)
        terms = {"dice": hard.dice, "ce": hard.ce, "soft_kl": divergence.detach(), "soft_dice": dice.detach()}
        return {"loss": total, **terms}

    def _answer(self, image: Tensor) -> Tensor:
        dtype = choose_dtype(self.precision, image.device)
        autocast = torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32)
        with torch.no_grad(), autocast:
            logits = [lay_out(teacher.to(image.device), dtype)(image).logits.float() for teacher in self.teachers]
        return torch.stack(logits).mean(0)


def build_distilled(config: ExperimentConfig, labels: LabelMap, loss: SegmentationLoss) -> Distilled:
    """Return the method of an experiment with teachers; raises `ModelError` as `load_teachers`."""
    distillation = config.distillation
    teachers = [network for model in load_teachers(distillation) for network in model.networks]
    soft = SoftTargetLoss(regions=bool(labels.regions), temperature=distillation.temperature)
    return Distilled(loss, soft, teachers, distillation, config.training)


def load_teachers(config: DistillationConfig) -> tuple[Model, ...]:
    """Read the teachers.

    Raises
    ------
    ModelError
        If one is no sound model, they differ in labels or in how scans are prepared, or one can't take the patches.
    """
    models = tuple(load_model(folder) for folder in config.teachers)
    for folder, model in zip(config.teachers[1:], models[1:], strict=True):
        if _answers(model) != _answers(models[0]) or _preparation(model.plan) != _preparation(models[0].plan):
            raise ModelError(
                f"{folder} segments other structures, or prepares scans otherwise, than {config.teachers[0]}; teachers "
                "must be trainings of the same dataset and plan"
            )
        if model.plan.patch != models[0].plan.patch:
            _check_window(folder, model, models[0].plan.patch)
    return models


def student_of(teachers: Sequence[Model], config: DistillationConfig) -> Start:
    """Return what a student starts from: the first teacher's plan with fewer feature maps, and weights.

    Raises
    ------
    PlanError
        If the teacher's network can't be made narrower, or not pruned where that is asked for.
    """
    teacher = teachers[0]
    plan = narrowed_plan(teacher.plan, config.width, coarse=config.coarse)
    state = {} if config.start == "random" else prune(teacher.networks[0], plan.network)

    def put_into(network: nn.Module) -> object:
        return network.load_state_dict({**network.state_dict(), **state})

    return Start(
        plan=plan,
        labels=teacher.labels,
        put_into=put_into,
        digest=model_digest(config.teachers[0]),
        postprocessing=teacher.postprocessing,
        modalities=teacher.modalities,
        learnt=tuple(learnt_by(teachers)),
    )


def check_teachers(config: DistillationConfig, teachers: Sequence[Model], plan: Plan, labels: LabelMap) -> None:
    """Refuse teachers of other structures or of scans prepared otherwise, where a student starts from something else.

    Raises
    ------
    ModelError
        If there are any, or one can't take the student's patches.
    """
    for folder, model in zip(config.teachers, teachers, strict=True):
        if _answers(model) != (labels.targets, bool(labels.regions)):
            raise ModelError(f"{folder} segments other structures than the dataset has; choose another teacher")
        if _preparation(model.plan) != _preparation(plan):
            raise ModelError(
                f"{folder} prepares scans otherwise than what the student starts from; leave out --init, or choose a "
                "teacher of the same plan"
            )
        if model.plan.patch != plan.patch:
            _check_window(folder, model, plan.patch)


def learnt_by(teachers: Sequence[Model]) -> set[str]:
    """Return the ids of the cases that a teacher has learnt from: it tells them to the student."""
    return {case for model in teachers for case in learnt_cases(model.provenance)}


def identity(config: DistillationConfig) -> dict[str, Any]:
    """Return what distillation decides of a result, for a checkpoint; nothing without teachers."""
    if not config.teachers:
        return {}
    settings = config.model_dump(mode="json", exclude={"teachers"})
    return {"distillation": {**settings, "teachers": [model_digest(Path(folder)) for folder in config.teachers]}}


def _check_window(folder: Path, model: Model, patch: Sizes) -> None:
    """Refuse a teacher whose network can't take the student's patches; raises `ModelError`."""
    try:
        plan = Plan.model_validate({**model.plan.model_dump(), "patch": patch})
        build_blank(plan, model.labels.outputs)
    except ValueError:
        raise ModelError(
            f"{folder} can't take patches of {shown_sizes(patch)}, from which the student learns; leave it out, or "
            "name it first, so that its plan is the student's"
        ) from None


def _answers(model: Model) -> tuple[tuple[str, ...], bool]:
    """Return what a model's outputs mean: the targets, and whether they are overlapping regions."""
    return model.labels.targets, bool(model.labels.regions)


def _preparation(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(include={"dimensions", "spacing", "slice_axis", "channels", "normalisation"})
