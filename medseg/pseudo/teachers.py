"""Teachers: networks of a cross-validation, each with the labelled scans that it learnt from and those it didn't."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.splits import Fold, k_folds
from medseg.config import ExperimentConfig, InferenceConfig, load_config
from medseg.errors import ConfigError, DatasetError, ModelError
from medseg.labels import LabelMap
from medseg.networks.model import Model, load_model
from medseg.plan import Plan
from medseg.provenance import digest_bytes, digest_json
from medseg.text import shown
from medseg.volume import Case

OF_TEACHING = ("pseudo", "dataset")
"""Sections of a training's configuration that still matter when its networks teach."""


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """One network in evaluation mode.

    Attributes
    ----------
    digest : SHA-256 of its weights.
    learnt : labelled cases that it learnt from.
    held_out : labelled cases that it never saw, nor a network or pseudo-label that it learnt from did.
    known : ids of other cases that it learnt from by way of networks or pseudo-labels.
    """

    network: nn.Module
    digest: str
    learnt: tuple[Case, ...]
    held_out: tuple[Case, ...]
    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Teachers:
    """Networks of one plan.

    Attributes
    ----------
    members : at least one.
    inference : how they are applied.
    """

    members: tuple[Teacher, ...]
    plan: Plan
    labels: LabelMap
    inference: InferenceConfig

    @property
    def labelled(self) -> tuple[Case, ...]:
        """All labelled cases, by name."""
        cases = {case.id: case for member in self.members for case in (*member.learnt, *member.held_out)}
        return tuple(cases[id_] for id_ in sorted(cases))

    @property
    def learnt_from(self) -> tuple[str, ...]:
        """The ids of all cases that any member learnt from, also by way of other models."""
        return tuple(
            sorted({id_ for member in self.members for id_ in (*member.known, *(c.id for c in member.learnt))})
        )

    @property
    def digests(self) -> tuple[str, ...]:
        """Digest of each member's weights."""
        return tuple(member.digest for member in self.members)

    def alone(self, number: int) -> Teachers:
        """Return one member as the only teacher, who knows nothing of its held-out cases."""
        return replace(self, members=(replace(self.members[number], held_out=()),))


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished training run.

    Attributes
    ----------
    config : as it was trained, with the dataset where it is now.
    """

    folder: Path
    config: ExperimentConfig
    dataset: Dataset
    teachers: Teachers


def read_run(
    folder: Path, data: Path | None = None, overrides: Iterable[str] = (), device: torch.device | str = "cpu"
) -> Run:
    """Read a training run and its networks as teachers.

    Parameters
    ----------
    folder : run folder of ``medseg train``, with ``config.yaml`` and ``model/``.
    data : where the dataset lies now; None: where it lay then.
    overrides : changes of its configuration, such as ``pseudo.precision=0.97``.

    Raises
    ------
    ConfigError
        If an override would change nothing, because it is of the training, which is over.
    ModelError
        If the run is not finished.
    DatasetError
        If the dataset no longer has the labelled cases that were trained on.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ModelError(f"{folder}: this is no run folder, it has no config.yaml; give the folder of medseg train")
    if not (folder / "model").is_dir():
        raise ModelError(f"{folder}: the run has no model yet; let medseg train finish it")
    config = load_config(path, overrides)
    trained = load_config(path)
    _check_overrides(config, trained)
    if data is not None:
        config = config.with_data(data)
    dataset = read_dataset(config.dataset)
    # who was held out follows from patients as they were, whatever is changed now
    trained = trained.with_data(config.dataset.folder)
    before = dataset if trained.dataset == config.dataset else read_dataset(trained.dataset)
    teachers = read_teachers(folder, before, trained.training.seed, device)
    return Run(folder, config, dataset, teachers)


def _check_overrides(config: ExperimentConfig, trained: ExperimentConfig) -> None:
    """Refuse changes of sections that no longer matter, because the teachers are trained."""
    sections = type(config).model_fields
    vain = [name for name in sections if name not in OF_TEACHING and getattr(config, name) != getattr(trained, name)]
    if vain:
        raise ConfigError(
            f"{vain[0]} can't be changed for pseudo-labels, only {' and '.join(OF_TEACHING)}: the teachers are trained"
        )


def read_teachers(folder: Path, dataset: Dataset, seed: int, device: torch.device | str = "cpu") -> Teachers:
    """Return the networks of a run: one a fold, or one that learnt from every labelled case.

    Raises
    ------
    ModelError
        If there is no sound model.
    DatasetError
        If the labelled cases are not those that were trained on.
    """
    model = load_model(folder / "model", device)
    trained = model.provenance.get("training_cases", [])
    labelled = dataset.labelled
    changed = sorted(set(trained) ^ {case.id for case in labelled})
    if changed:
        raise DatasetError(
            f"{folder}: the labelled cases are no longer those that were trained on ({shown(changed)} differ); train "
            "again"
        )
    if model.labels.values != dataset.labels.values:
        raise ModelError(
            f"{folder}: the model knows {model.labels.describe()}, the dataset has {dataset.labels.describe()}: train "
            "again"
        )
    count = len(model.networks)
    folds = [Fold(labelled, ())] if count == 1 else k_folds(labelled, count, seed)
    members = tuple(
        Teacher(network, network_digest(network), fold.train, fold.validation, _known(model))
        for network, fold in zip(model.networks, folds, strict=True)
    )
    return Teachers(members, model.plan, model.labels, model.inference)


def gather_teachers(folders: Sequence[Path], folds: Sequence[Fold], device: torch.device | str = "cpu") -> Teachers:
    """Return the networks of several runs, one a fold, as teachers together."""
    models = [load_model(folder / "model", device) for folder in folders]
    members = tuple(
        Teacher(model.networks[0], network_digest(model.networks[0]), fold.train, fold.validation, _known(model))
        for model, fold in zip(models, folds, strict=True)
    )
    return Teachers(members, models[0].plan, models[0].labels, models[0].inference)


def _known(model: Model) -> tuple[str, ...]:
    return tuple(model.provenance.get("also_learnt", ()))


def network_digest(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights."""
    state = network.state_dict()
    return digest_json({name: digest_bytes(tensor.cpu().numpy().tobytes()) for name, tensor in state.items()})
