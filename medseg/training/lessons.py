"""What a configuration makes of cases: the method that learns, and the batches that it learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medseg.config import ExperimentConfig, UnlabelledConfig
from medseg.data.batches import BatchStream, Stream
from medseg.data.mixing import MixedStream
from medseg.data.sampling import Randomness
from medseg.errors import ConfigError
from medseg.labels import LabelMap
from medseg.losses.segmentation import SegmentationLoss
from medseg.plan import Plan
from medseg.preprocessing.cached_case import CachedCase
from medseg.training.distillation import build_distilled
from medseg.training.methods import Method, Supervised
from medseg.training.mixing import MixedMethod, Teacher


def learns_unlabelled(config: UnlabelledConfig) -> bool:
    """Whether unlabelled scans take part; with a labelled weight of 1 they could change nothing."""
    return config.method != "supervised" and config.labelled_weight != 1


def shows_unlabelled(config: ExperimentConfig) -> bool:
    """Whether unlabelled scans take part if there are any: a method needs them, or teachers may answer for them."""
    distillation = config.distillation
    return learns_unlabelled(config.unlabelled) or bool(distillation.teachers and distillation.unlabelled)


def check_ingredients(config: ExperimentConfig, labels: LabelMap, plan: Plan) -> None:
    """Refuse ways to learn from unlabelled scans that labels or network don't allow, before hours are spent.

    Raises
    ------
    ConfigError
        If a teacher is to label overlapping regions, which no one class index of a voxel can state, or if features are
        to be compared of a network that shows none.
    """
    unlabelled = config.unlabelled
    if not learns_unlabelled(unlabelled):
        return
    online = unlabelled.method == "mix-teacher"
    if online and labels.regions:
        raise ConfigError(
            "a teacher can't label overlapping regions voxel by voxel: use unlabelled.method=pseudo-labels"
        )
    prototypes = online and (unlabelled.prototype_share or unlabelled.prototype_gate)
    if (prototypes or unlabelled.affinity_weight) and plan.network.name != "unet":
        raise ConfigError(
            f"{plan.network.name} shows no features to compare; use network.name=unet, or leave out "
            "unlabelled.prototype_share, prototype_gate and affinity_weight"
        )


def build_method(config: ExperimentConfig, labels: LabelMap, plan: Plan, teacher: Teacher) -> Method:
    """Return the configured method.

    Parameters
    ----------
    teacher : the averaged network, which labels unlabelled patches where the method asks for it.

    Raises
    ------
    ConfigError
        If the labelled weight is still to be chosen, or as `check_ingredients`.
    """
    unlabelled = config.unlabelled
    loss = _loss(config, labels, plan)
    if config.distillation.teachers:
        return build_distilled(config, labels, loss)
    if not learns_unlabelled(unlabelled):
        return Supervised(loss)
    if unlabelled.labelled_weight == "auto":
        raise ConfigError("unlabelled.labelled_weight is auto: it is chosen before a network is trained")
    check_ingredients(config, labels, plan)
    online = unlabelled.method == "mix-teacher"
    return MixedMethod(loss, labels, unlabelled, unlabelled.labelled_weight, teacher if online else None)


def _loss(config: ExperimentConfig, labels: LabelMap, plan: Plan) -> SegmentationLoss:
    """Return the loss; Dice over the batch where patches often lack a class, which would cost a whole Dice each.

    Slices lack classes (nnU-Net's choice), and so do the labelled parts of mixed patches.
    """
    training = config.training
    if training.batch_dice is None:
        parts = plan.dimensions == 2 or learns_unlabelled(config.unlabelled)
        training = training.model_copy(update={"batch_dice": parts})
    return SegmentationLoss(labels, training)


def build_stream(
    cases: Sequence[CachedCase],
    unlabelled: Sequence[CachedCase],
    plan: Plan,
    config: ExperimentConfig,
    randomness: Randomness,
    device: torch.device,
) -> Stream:
    """Return the batches of a run; the labelled patches are the same with and without unlabelled ones.

    Raises
    ------
    DatasetError
        If there is no labelled case, or no unlabelled one where the method learns from them.
    """
    labelled = BatchStream(cases, plan, config.augmentation, config.training, randomness, device)
    answered = unlabelled and config.distillation.teachers
    if not (answered or learns_unlabelled(config.unlabelled)):
        return labelled
    return MixedStream(labelled, unlabelled, config.augmentation, config.training, randomness, config.unlabelled)
