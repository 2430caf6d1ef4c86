"""Configuration: one frozen model a stage, YAML in, resolved YAML out.

YAML holds data only. ``--set training.steps=500`` overrides one field; an unknown key, a wrong type or
a value out of bounds ends in one `ConfigError` that lists every problem. The resolved configuration is
the first file of every run.
"""

from medseg.config.batch import Backend, BatchConfig, InferenceConfig, SegmentConfig, make_segment_config
from medseg.config.distillation import DistillationConfig
from medseg.config.experiment import ExperimentConfig, load_config, save_config
from medseg.config.ingest import IngestConfig, parse_policies
from medseg.config.stage import Precision, Stage, describe_problems
from medseg.config.training import (
    AugmentationConfig,
    DatasetConfig,
    NetworkConfig,
    PlanConfig,
    PretrainingConfig,
    TrainingConfig,
    Triple,
)
from medseg.config.unlabelled import PseudoLabelConfig, UnlabelledConfig

__all__ = [
    "Triple",
    "AugmentationConfig",
    "Backend",
    "BatchConfig",
    "DatasetConfig",
    "DistillationConfig",
    "ExperimentConfig",
    "InferenceConfig",
    "IngestConfig",
    "NetworkConfig",
    "PlanConfig",
    "Precision",
    "PretrainingConfig",
    "PseudoLabelConfig",
    "SegmentConfig",
    "Stage",
    "TrainingConfig",
    "UnlabelledConfig",
    "describe_problems",
    "load_config",
    "make_segment_config",
    "parse_policies",
    "save_config",
]
