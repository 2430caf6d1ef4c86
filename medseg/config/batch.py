"""How a trained model is applied, to one scan and to a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from medseg.config.ingest import IngestConfig
from medseg.config.speed import Speed, changes
from medseg.config.stage import Precision, Stage, describe_problems
from medseg.errors import ConfigError

Backend = Literal["auto", "torch", "onnx", "openvino"]
"""What computes a model's layers; auto: the first runtime that it was exported for, else torch."""


class InferenceConfig(Stage):
    """How a trained model is applied."""

    overlap: float = Field(0.5, ge=0, lt=1, description="Share of a window that the next one covers again")
    flips: bool = Field(False, description="Average over mirrored scans (up to 8 times the work)")
    window_batch: int = Field(2, ge=1, description="Windows in a forward pass; on CPUs a 3D U-Net takes them singly")
    precision: Precision = Field("auto", description="Arithmetic; auto: the fastest safe one")


class BatchConfig(Stage):
    """What segmenting and converting a folder of scans have in common."""

    key: Path | None = Field(
        None, description="Key file of the pseudonyms, made on first use; default: one for this user"
    )
    pseudonymize: bool = Field(
        False, description="Name NIfTI scans by pseudonyms too, so that file names are in sources.csv alone"
    )
    redo: bool = Field(False, description="Do again what is already done")
    series_rule: Path | None = Field(
        None,
        description="Rules file that chooses one series of each DICOM study; default: every sound series is a case",
    )
    workdir: Path | None = Field(
        None, description="Where zip archives are unpacked while the batch runs; default: the system's temporary folder"
    )
    ingest: IngestConfig = Field(default_factory=IngestConfig, description="Policies for faults of scans; see ingest")


class SegmentConfig(BatchConfig):
    """A batch: many scans, one model. What is left out is as the model was validated."""

    device: str = Field("auto", description="auto, cpu, cuda, or one GPU such as cuda:1")
    backend: Backend = Field(
        "auto", description="What computes the network; auto: the first that the model was exported for, else torch"
    )
    speed: Speed = Field(
        "balanced",
        description="fast: windows overlap less; balanced: as the model was validated; accurate: they overlap more, "
        "mirrored where the model allows it, in float32. Fields that are given count before it",
    )
    overlap: float | None = Field(None, ge=0, lt=1, description="Share of a window that the next one covers again")
    flips: bool | None = Field(None, description="Average over mirrored scans (up to 8 times the work)")
    window_batch: int | None = Field(None, ge=1, description="Windows in a forward pass")
    workers: int | None = Field(
        None, ge=0, description="Worker processes; 0: all in this process; default: one a GPU, one on a CPU"
    )
    case_timeout: float = Field(
        6 * 3600, ge=0, description="Seconds of work after which a case counts as hanging and is ended; 0: never"
    )
    memory_limit_gb: float | None = Field(
        None, gt=0, description="Memory that a worker process may take, GB (Linux); default: no limit"
    )
    engine: Literal["processes", "ray"] = Field(
        "processes", description="Where the workers are: processes on this machine, or ray, actors on a Ray cluster"
    )
    ray_address: str | None = Field(
        None, description="Address of the Ray cluster; default: RAY_ADDRESS or, without it, one on this machine"
    )
    shard: tuple[int, int] | None = Field(
        None,
        description="Do one part of the cases, such as 3/8, the third of eight, and leave the others to other "
        "commands into the same output folder; default: all",
    )
    formats: tuple[Literal["nifti", "seg-nrrd", "dicom-seg", "rtstruct", "dicom-sr"], ...] = Field(
        ("nifti",),
        description="Formats: nifti (always written), seg-nrrd (3D Slicer); of DICOM series also dicom-seg "
        "(segmentation), rtstruct (contours), dicom-sr (measurements)",
    )
    per_class: bool = Field(False, description="Also write one binary NIfTI mask a label")
    lesions: tuple[str, ...] | None = Field(
        None, description="Labels whose connected parts are measured singly; default: those that the model marks"
    )

    @field_validator("formats")
    @classmethod
    def _write_nifti(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Give equal wishes equal digests: another order of words is no reason to segment everything again."""
        return tuple(sorted({"nifti", *value}))

    @field_validator("lesions")
    @classmethod
    def _sort_lesions(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(sorted(set(value)))

    @field_validator("shard", mode="before")
    @classmethod
    def _read_shard(cls, value: object) -> object:
        if value is None:
            return None
        parts = value.split("/") if isinstance(value, str) else value
        try:
            number, count = map(int, parts)  # type: ignore[call-overload]
        except (TypeError, ValueError):
            number = count = 0
        if not 1 <= number <= count:
            raise ValueError(f"{value} is none; write the third of eight as 3/8, the first as 1/8")
        return number, count

    @model_validator(mode="after")
    def _check_engine(self) -> SegmentConfig:
        if self.engine == "ray" and self.workers == 0:
            raise ValueError("workers 0 means all in this process, and engine ray on a cluster; leave out one of them")
        return self

    def inference(self, model: InferenceConfig) -> InferenceConfig:
        """Return the model's own inference with what this batch wants otherwise."""
        wishes = {name: getattr(self, name) for name in ("overlap", "flips", "window_batch")}
        said = {name: wish for name, wish in wishes.items() if wish is not None}
        return model.model_copy(update={**changes(self.speed, model.overlap), **said})


def make_segment_config(**fields: Any) -> SegmentConfig:
    """Return a batch's configuration.

    Raises
    ------
    ConfigError
        If a field is unknown or wrong, such as a format that does not exist.
    """
    try:
        return SegmentConfig(**fields)
    except ValidationError as error:
        raise ConfigError(describe_problems(error)) from None
