"""What a run stands on: checked cases, and a plan that is made once and then kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.splits import check_leakage
from medseg.config import ExperimentConfig, save_config
from medseg.errors import DatasetError, ModelError, OutputError
from medseg.io.files import atomic_file
from medseg.networks.model import Model
from medseg.plan import Plan, load_plan, save_plan
from medseg.planning import fingerprint_cases, plan_dataset
from medseg.volume import Case


@dataclass(frozen=True, slots=True)
class Setup:
    """Cases and plan of a run.

    Attributes
    ----------
    train : labelled training cases.
    held_out : labelled validation cases; nothing is ever chosen by them but an early stop that is asked for.
    """

    dataset: Dataset
    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    plan: Plan


def set_up(config: ExperimentConfig, output: Path, start: Model | None = None) -> Setup:
    """Read and check the dataset, and make the plan unless the run folder, or `start`, has one.

    Raises
    ------
    DatasetError
        If no training case is labelled, or training and validation share a patient or a scan.
    ModelError
        If `start` has other labels or channels than the dataset.
    """
    dataset = read_dataset(config.dataset)
    train = labelled(dataset, dataset.train)
    held_out = labelled(dataset, dataset.validation)
    if not train:
        raise DatasetError(
            f"{dataset.name}: none of the {len(dataset.train)} training cases has a mask; put masks into labels/"
        )
    check_leakage(train, dataset.select(dataset.validation))
    _make_folder(output)
    with atomic_file(output / "config.yaml") as path:
        save_config(config, path)
    return Setup(dataset, train, held_out, _plan(config, dataset, train, output, start))


def labelled(dataset: Dataset, ids: tuple[str, ...]) -> tuple[Case, ...]:
    """Return those of the named cases that have a mask."""
    return tuple(case for case in dataset.select(ids) if case.mask is not None)


def make_plan(config: ExperimentConfig, dataset: Dataset, train: tuple[Case, ...], output: Path) -> Plan:
    """Measure the training cases, plan for them, and write ``fingerprint.json`` and ``plan.yaml``."""
    fingerprint = fingerprint_cases(train, dataset.labels)
    plan = plan_dataset(fingerprint, config.plan, config.network, dataset.labels, dataset.channels, dataset.modalities)
    with atomic_file(output / "fingerprint.json") as path:
        path.write_text(fingerprint.model_dump_json(indent=1), encoding="utf-8")
    with atomic_file(output / "plan.yaml") as path:
        save_plan(plan, path)
    return plan


def _plan(
    config: ExperimentConfig, dataset: Dataset, train: tuple[Case, ...], output: Path, start: Model | None
) -> Plan:
    if start is not None:
        _check_start(start, dataset)
        with atomic_file(output / "plan.yaml") as path:
            save_plan(start.plan, path)
        return start.plan
    if (output / "plan.yaml").exists():
        return load_plan(output / "plan.yaml")
    return make_plan(config, dataset, train, output)


def _check_start(start: Model, dataset: Dataset) -> None:
    if start.labels.targets != dataset.labels.targets or start.plan.channels != dataset.channels:
        raise ModelError(
            f"the model to start from knows {', '.join(start.labels.targets)} on {', '.join(start.plan.channels)}, "
            f"the dataset has {', '.join(dataset.labels.targets)} on {', '.join(dataset.channels)}: they must be equal"
        )


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: the run folder can't be made ({error.strerror}); choose another") from None
