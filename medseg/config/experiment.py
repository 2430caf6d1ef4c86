"""A whole training run as one file: YAML in, resolved YAML out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from medseg.config.batch import InferenceConfig
from medseg.config.distillation import DistillationConfig
from medseg.config.stage import Stage, describe_problems
from medseg.config.training import (
    AugmentationConfig,
    DatasetConfig,
    NetworkConfig,
    PlanConfig,
    PretrainingConfig,
    TrainingConfig,
)
from medseg.config.unlabelled import PseudoLabelConfig, UnlabelledConfig
from medseg.errors import ConfigError
from medseg.text import first_line


class ExperimentConfig(Stage):
    """A whole training run: one complete YAML file."""

    name: str = Field("model", min_length=1, description="Name of the model")
    dataset: DatasetConfig = Field(default_factory=DatasetConfig, description="Scans, masks and splits")
    plan: PlanConfig = Field(default_factory=PlanConfig, description="Wishes for the plan")
    network: NetworkConfig = Field(default_factory=NetworkConfig, description="The network")
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig, description="Random changes")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="The optimisation")
    unlabelled: UnlabelledConfig = Field(
        default_factory=UnlabelledConfig, description="What is learnt from unlabelled scans"
    )
    pseudo: PseudoLabelConfig = Field(
        default_factory=PseudoLabelConfig, description="How pseudo-labels are made, and used in rounds"
    )
    distillation: DistillationConfig = Field(
        default_factory=DistillationConfig, description="What is learnt from trained teachers"
    )
    pretraining: PretrainingConfig = Field(
        default_factory=PretrainingConfig, description="Self-supervised pre-training"
    )
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="Application and validation")

    def with_data(self, folder: Path) -> ExperimentConfig:
        """Return the same run with another dataset folder."""
        return self.with_changes(dataset={"folder": folder})

    def with_changes(self, **sections: Mapping[str, Any]) -> ExperimentConfig:
        """Return the same run with other values of some fields, by section; they are taken as they are.

        Examples
        --------
        >>> ExperimentConfig().with_changes(training={"steps": 10}).training.steps
        10
        """
        changed = {name: getattr(self, name).model_copy(update=fields) for name, fields in sections.items()}
        return self.model_copy(update=changed)

    @model_validator(mode="after")
    def _check(self) -> ExperimentConfig:
        if self.distillation.teachers and self.unlabelled.method != "supervised":
            raise ValueError(
                "distillation.teachers answer for unlabelled scans, too: leave unlabelled.method supervised, or the "
                "teachers out"
            )
        return self


def load_config(
    path: str | PathLike[str] | None, overrides: Iterable[str] = (), base: ExperimentConfig | None = None
) -> ExperimentConfig:
    """Read a configuration file and apply ``section.field=value`` overrides (values are YAML).

    Parameters
    ----------
    base : what is overridden where there is no file; default: every field's default.

    Raises
    ------
    ConfigError
        If the file can't be read, an override is malformed, or any field is unknown or wrong.
    """
    values = _read_yaml(Path(path)) if path else base.model_dump(mode="json") if base else {}
    for override in overrides:
        _set(values, override)
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        problems = describe_problems(error, ExperimentConfig)
        raise ConfigError(f"{path or 'the configuration'}: {problems}; see docs/configuration.md") from None


def save_config(config: BaseModel, path: Path) -> None:
    """Write a configuration as YAML, every field resolved."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=110), encoding="utf-8")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({first_line(error)})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a configuration is 'key: value' pairs, not {type(values).__name__}")
    return values


def _set(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *sections, field = dotted.strip().split(".")
    if not equals or not field:
        raise ConfigError(f"--set {override!r}: write it as section.field=value, such as training.steps=500")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is not a section")
    try:
        values[field] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from None
