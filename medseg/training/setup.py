"""What a run stands on: checked cases, and a plan that is made once and then kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.pseudo_labels import REVIEWED, learnt_by_teachers
from medseg.catalog.pseudo_review import read_pseudo_labels
from medseg.catalog.splits import check_leakage, check_unlabelled, check_unseen, k_folds, without_patients
from medseg.config import ExperimentConfig, load_config, save_config
from medseg.errors import ConfigError, DatasetError, ModelError, OutputError
from medseg.io.files import atomic_file
from medseg.plan import Plan, load_plan, save_plan
from medseg.planning import (
    Finding,
    Fingerprint,
    check_training_data,
    check_unstated,
    fingerprint_cases,
    plan_dataset,
    refuse_errors,
    save_fingerprint,
)
from medseg.planning.topology import round_up
from medseg.training.lessons import learns_unlabelled, shows_unlabelled
from medseg.training.start import Start
from medseg.volume import Case

CONFIG = "config.yaml"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """Cases and plan of a run.

    Attributes
    ----------
    train : labelled training cases.
    held_out : labelled validation cases; nothing is ever chosen by them but an early stop that is asked for.
    unlabelled : cases without a mask by a person, where the method learns from them.
    reviewed : cases whose pseudo-label a person accepted or corrected: they train as labelled ones do.
    fingerprint : of the training cases alone.
    """

    dataset: Dataset
    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    plan: Plan
    fingerprint: Fingerprint
    unlabelled: tuple[Case, ...] = ()
    reviewed: tuple[Case, ...] = ()


def set_up(config: ExperimentConfig, output: Path, start: Start | None = None) -> Setup:
    """Read and check the dataset, and make the plan unless the run folder, or `start`, has one.

    Raises
    ------
    DatasetError
        If no training case is labelled, or training, validation and unlabelled cases share a patient or a scan.
    ModelError
        If `start` has other labels or channels than the dataset.
    """
    dataset = read_dataset(config.dataset)
    train, held_out = dataset.labelled, dataset.select(dataset.validation)
    check_leakage(train, dataset.set_apart)
    unlabelled, reviewed = _unlabelled(config, dataset)
    _make_folder(output)
    fingerprint = _examine(dataset, train, held_out, output).select(_ids(train))
    plan = _plan(config, dataset, fingerprint, output, start)
    if not has_trained(output):  # else it says what was trained, until this command has trained
        keep_config(config, output)
    return Setup(dataset, train, held_out, plan, fingerprint, unlabelled, reviewed)


def check_scans_left(setup: Setup, config: ExperimentConfig, folds: int, remedy: str) -> None:
    """Refuse, before a network trains, folds of which one holds out the patients of all unlabelled scans.

    Raises
    ------
    DatasetError
        If there is one and the method needs these scans; the message ends with the remedy.
    """
    parts = k_folds(setup.train, folds, config.training.seed)
    left = [without_patients(setup.unlabelled, fold.validation) for fold in parts]
    if learns_unlabelled(config.unlabelled) and not all(left):
        raise DatasetError(
            f"all {len(setup.unlabelled)} unlabelled scans are of patients whom one of {folds} folds holds out, so it "
            f"has none to learn from: add scans of other patients, or {remedy}"
        )


def has_trained(output: Path) -> bool:
    """Whether a network of this run folder has begun to train."""
    return any(output.glob("*/checkpoint.pt"))


def keep_config(config: ExperimentConfig, output: Path) -> None:
    """Write the configuration of a run."""
    with atomic_file(output / CONFIG) as path:
        save_config(config, path)


def _unlabelled(config: ExperimentConfig, dataset: Dataset) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return the cases without a mask where the method learns from them, and those of them that a person saw to."""
    reviewed: tuple[Case, ...] = ()
    folder = config.unlabelled.pseudo_labels if config.unlabelled.method == "pseudo-labels" else None
    if folder is not None:
        teachers = f"the teachers of the pseudo-labels in {folder} have"
        pairs = read_pseudo_labels(folder, dataset)
        check_unseen(dataset.set_apart, learnt_by_teachers(folder), dataset.cases, teachers, kind="held-out")
        reviewed = tuple(case for case, record in pairs if record.status in REVIEWED)
        cases = tuple(case for case, record in pairs if record.status not in REVIEWED) or reviewed
    else:
        cases = tuple(replace(case, mask=None) for case in dataset.unlabelled)
    if not shows_unlabelled(config):
        cases = ()
    if not cases and learns_unlabelled(config.unlabelled):
        raise DatasetError(
            "there is no unlabelled scan to learn from: put scans without masks into the dataset, or train with "
            "unlabelled.method=supervised"
        )
    check_unlabelled((*cases, *reviewed), dataset.labelled, dataset.set_apart)
    return cases, reviewed


def _examine(dataset: Dataset, train: tuple[Case, ...], held_out: tuple[Case, ...], output: Path) -> Fingerprint:
    """Measure and check every labelled case; done at every start, because files may have changed since."""
    fingerprint = fingerprint_cases((*train, *held_out), dataset.labels)
    findings = check_training_data(fingerprint, dataset.labels, _ids(train), _ids(held_out))
    refuse_errors(findings)
    _warn(findings)
    with atomic_file(output / "fingerprint.json") as path:
        save_fingerprint(fingerprint, path)
    return fingerprint


def _warn(findings: Iterable[Finding]) -> None:
    for finding in findings:
        logger.warning(finding.message)


def _plan(
    config: ExperimentConfig, dataset: Dataset, fingerprint: Fingerprint, output: Path, start: Start | None
) -> Plan:
    """Take the plan of the model to start from, or the one in the run folder, or make one from the training cases."""
    path = output / "plan.yaml"
    if start is None and path.exists():
        _check_unchanged(config, path)
        return load_plan(path)
    if start is not None:
        _check_start(start, dataset)
        plan = start.plan
        _check_trained(plan, path)
        vain = _unheeded(config, plan)
        if vain:
            logger.warning("%s: not heeded, because the plan is that of the weights to start from", ", ".join(vain))
    else:
        if config.dataset.modality is None:  # who says other means it
            _warn(check_unstated(fingerprint, dataset.channels, dataset.modalities))
        plan = plan_dataset(
            fingerprint, config.plan, config.network, dataset.labels, dataset.channels, dataset.modalities
        )
    with atomic_file(path) as temporary:
        save_plan(plan, temporary)
    return plan


def _check_unchanged(config: ExperimentConfig, plan: Path) -> None:
    """Refuse other wishes than those that the plan in a run folder was made for: they would change nothing."""
    before = plan.with_name(CONFIG)
    if not before.is_file():
        return
    old, new = _wishes(load_config(before)), _wishes(config)
    changed = [f"{field}={old[field]}" for field in new if old[field] != new[field]]
    if changed:
        raise ConfigError(
            f"{plan} was made with {', '.join(changed)} and is used as it stands; delete it to plan anew, or leave "
            "these settings as they were"
        )


def _check_trained(plan: Plan, path: Path) -> None:
    """Refuse to write another plan over the one that the run folder's networks are trained by."""
    if not (path.exists() and has_trained(path.parent)):
        return
    if load_plan(path).model_copy(update={"reasons": plan.reasons}) != plan:
        raise ConfigError(
            f"{path} is the plan of another run, which this one would write over; give its command again to go on with "
            "it, or choose a new output folder"
        )


def _wishes(config: ExperimentConfig) -> dict[str, object]:
    """Return every field of a configuration that a plan follows from, by its name with the section."""
    wishes = {
        f"{section}.{field}": value for section in ("plan", "network") for field, value in getattr(config, section)
    }
    return {"dataset.modality": config.dataset.modality, **wishes}


def _unheeded(config: ExperimentConfig, plan: Plan) -> list[str]:
    """Return the wishes, field=value, that a given plan doesn't fulfil; a patch may have grown to fit the strides."""
    wishes = config.plan.model_dump(include=config.plan.model_fields_set - {"memory_gb", "patch"}, exclude_none=True)
    vain = [f"plan.{field}={value}" for field, value in wishes.items() if value != getattr(plan, field)]
    if config.plan.patch and round_up(config.plan.patch, plan.network.divisor) != plan.patch:
        vain.append(f"plan.patch={config.plan.patch}")
    fields = ("name", "residual", "deep_supervision", "dropout") if plan.network.name == "unet" else ("name",)
    topology = config.network.model_dump(include=config.network.model_fields_set.intersection(fields))
    vain += [f"network.{field}={value}" for field, value in topology.items() if value != getattr(plan.network, field)]
    return vain


def _ids(cases: tuple[Case, ...]) -> list[str]:
    return [case.id for case in cases]


def _check_start(start: Start, dataset: Dataset) -> None:
    if start.labels and start.labels.targets != dataset.labels.targets:
        raise ModelError(
            f"the model to start from knows {', '.join(start.labels.targets)}, the dataset has "
            f"{', '.join(dataset.labels.targets)}: they must be equal"
        )
    if start.labels and bool(start.labels.regions) != bool(dataset.labels.regions):
        kinds = ("overlapping regions", "labels that exclude each other")
        known, wanted = kinds if start.labels.regions else kinds[::-1]
        raise ModelError(f"the model to start from knows {known}, the dataset has {wanted}: they must be of one kind")
    if start.plan.channels != dataset.channels:
        raise ModelError(
            f"the weights to start from take {', '.join(start.plan.channels)}, the dataset has "
            f"{', '.join(dataset.channels)}: they must be equal"
        )


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: the run folder can't be made ({error.strerror}); choose another") from None
