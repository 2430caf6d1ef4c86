"""Configuration: one frozen model a stage, YAML in, resolved YAML out.

YAML holds data only. ``--set training.steps=500`` overrides one field; an unknown key, a wrong type or
a value out of bounds ends in one `ConfigError` that lists every problem. The resolved configuration is
the first file of every run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medseg.errors import ConfigError, ReasonCode

Triple = tuple[float, float, float]


class Stage(BaseModel):
    """Base of all stages: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IngestConfig(Stage):
    """What is done about each fault of a scan: reject it, warn (use it as it is, flagged), or repair it (flagged).

    A field is the reason code in lower case; codes that are not here always refuse a scan (docs/ingest.md).
    """

    missing_slice: Literal["reject", "repair"] = Field(
        "reject", description="Slices are missing; repair: interpolate them"
    )
    variable_spacing: Literal["reject", "repair"] = Field(
        "reject", description="Slices are unevenly spaced; repair: interpolate evenly spaced ones"
    )
    gantry_tilt: Literal["reject", "repair"] = Field(
        "repair", description="Slices are sheared by a tilted gantry; repair: the network sees them straightened"
    )
    nonorthonormal_affine: Literal["reject", "repair"] = Field(
        "repair", description="The axes of a scan are not perpendicular; repair: the network sees it straightened"
    )
    phases: Literal["reject", "repair"] = Field(
        "repair", description="A series holds several images at each position; repair: each phase is a scan"
    )
    duplicate: Literal["reject", "warn"] = Field("warn", description="Slices are there twice; warn: use each once")
    pixel_padding: Literal["warn", "repair"] = Field(
        "repair", description="Pixels outside the field of view hold a padding value; repair: they become air"
    )
    no_rescale: Literal["reject", "warn"] = Field(
        "reject", description="A CT has no rescale slope and intercept; warn: take stored values for HU"
    )
    hu_suspect: Literal["reject", "warn"] = Field("warn", description="A CT's values don't look like HU")
    spacing_suspect: Literal["reject", "warn"] = Field(
        "warn", description="Pixel spacing differs from the detector's (ImagerPixelSpacing); warn: take PixelSpacing"
    )
    monochrome1: Literal["reject", "warn"] = Field(
        "warn", description="The grey scale is inverted for display; warn: keep the values"
    )
    empty: Literal["reject", "warn"] = Field("warn", description="The scan, or a slice within it, is of one value")
    fov_truncated: Literal["reject", "warn"] = Field("warn", description="The body is cut by a CT's field of view")
    qform_sform_disagree: Literal["reject", "warn"] = Field(
        "warn", description="A NIfTI file gives two places; warn: take the sform"
    )
    no_spatial_codes: Literal["reject", "warn"] = Field(
        "reject", description="A NIfTI file gives no place; warn: take its axes for L, A, S, as nibabel does"
    )
    not_finite: Literal["reject", "repair"] = Field(
        "reject", description="A NIfTI file holds NaN or infinity; repair: they become its smallest value"
    )
    min_slices: int = Field(1, ge=1, description="A DICOM series of fewer slices is refused (TOO_FEW_SLICES)")

    def choice(self, code: ReasonCode) -> str:
        """Return what is done about a fault; "reject" for one that allows nothing else."""
        return str(getattr(self, code.value.lower(), "reject"))


def parse_policies(choices: Iterable[str]) -> IngestConfig:
    """Return the ingest of words such as ``MISSING_SLICE=repair`` and ``MIN_SLICES=10``.

    Raises
    ------
    ConfigError
        If a word is malformed, its code has no policy, or the policy makes no sense for its code.
    """
    values: dict[str, str] = {}
    for choice in choices:
        code, equals, policy = choice.partition("=")
        field = code.strip().lower()
        if not equals or field not in IngestConfig.model_fields:
            codes = ", ".join(name.upper() for name in IngestConfig.model_fields)
            raise ConfigError(f"--policy {choice}: write it as CODE=policy, such as MISSING_SLICE=repair, of {codes}")
        values[field] = policy.strip().lower()
    try:
        return IngestConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{str(e['loc'][0]).upper()}={e['input']}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"--policy {problems}") from None


class DatasetConfig(Stage):
    """Where the scans and masks are, and which of them train."""

    folder: Path = Field(Path("."), description="Dataset folder; its layout is recognised (see docs/tutorial.md)")
    labels: dict[str, Any] | None = Field(
        None, description="Label map, 'name: value' pairs or the full form; default: the dataset's own file"
    )
    splits: Path | None = Field(None, description="JSON file of named lists of case ids, relative to the folder")
    train: str | list[str] | None = Field(None, description="Training cases: a list in the splits file, or ids")
    validation: str | list[str] | None = Field(None, description="Held-out cases: a list in the splits file, or ids")
    modality: Literal["ct", "mr", "other"] | None = Field(
        None, description="Kind of intensities of every channel; default: from the dataset's files"
    )
    patients: str | None = Field(
        None,
        description="Regular expression whose first group, searched in the case id, is the patient; "
        "default: every case is a patient of its own",
    )
    ingest: IngestConfig = Field(
        default_factory=lambda: IngestConfig(), description="Policies for faults of scans; see ingest below"
    )


class PlanConfig(Stage):
    """Wishes for the plan; what is left out follows from the data (see docs/architecture.md)."""

    dimensions: Literal[2, 3] = Field(3, description="2D slices or 3D patches")
    memory_gb: float = Field(8.0, gt=0, description="Memory of the training device, GB; picks patch and batch")
    spacing: Triple | None = Field(None, description="Voxel spacing the network sees, mm along x, y, z (RAS)")
    patch: tuple[int, int, int] | None = Field(None, description="Training patch in voxels, x, y, z (RAS)")
    batch: int | None = Field(None, ge=1, description="Patches in a training step")
    mirror: tuple[bool, bool, bool] | None = Field(
        None,
        description="Axes (x, y, z) along which mirrored scans are as plausible; "
        "default: all, but x off for sided labels",
    )


class NetworkConfig(Stage):
    """The network; depth and strides follow from the plan's patch and spacing."""

    name: Literal["unet", "segresnet", "vnet", "swinunetr"] = Field("unet", description="Architecture")
    features: int = Field(32, ge=4, description="Feature maps of the first stage; doubled at each stage")
    max_features: int = Field(320, ge=8, description="Upper limit of feature maps of a stage")
    residual: bool = Field(False, description="Residual encoder blocks (unet)")
    deep_supervision: bool = Field(True, description="Also learn from the decoder's coarser outputs (unet)")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability that a feature map is dropped in training")


class AugmentationConfig(Stage):
    """Random changes of training patches; probabilities are per patch. Defaults are nnU-Net v2's."""

    rotation_p: float = Field(0.2, ge=0, le=1, description="Probability of a rotation")
    rotation_degrees: float | None = Field(
        None,
        ge=0,
        le=180,
        description="Largest angle about each axis, degrees; default: 30 in 3D; where patches turn in plane only, "
        "180, or 15 if their plane is elongated",
    )
    scaling_p: float = Field(0.2, ge=0, le=1, description="Probability of a change of size")
    scaling: tuple[float, float] = Field((0.7, 1.4), description="Range of the size factor")
    elastic_p: float = Field(0.0, ge=0, le=1, description="Probability of a smooth random deformation")
    elastic_mm: float = Field(4.0, ge=0, description="Standard deviation of its control points' shifts, mm")
    noise_p: float = Field(0.1, ge=0, le=1, description="Probability of Gaussian noise")
    noise_std: float = Field(0.1, ge=0, description="Largest standard deviation of the noise, normalised units")
    blur_p: float = Field(0.2, ge=0, le=1, description="Probability of Gaussian blur")
    blur_sigma: tuple[float, float] = Field((0.5, 1.0), description="Range of its sigma, voxels")
    brightness_p: float = Field(0.15, ge=0, le=1, description="Probability of a multiplied brightness")
    brightness: tuple[float, float] = Field((0.75, 1.25), description="Range of the factor")
    contrast_p: float = Field(0.15, ge=0, le=1, description="Probability of a changed contrast")
    contrast: tuple[float, float] = Field((0.75, 1.25), description="Range of the factor about the mean")
    low_resolution_p: float = Field(0.25, ge=0, le=1, description="Probability of a simulated low resolution")
    low_resolution: tuple[float, float] = Field((0.5, 1.0), description="Range of the resolution factor")
    gamma_p: float = Field(0.3, ge=0, le=1, description="Probability of a gamma change")
    gamma_inverted_p: float = Field(0.1, ge=0, le=1, description="Probability of a gamma change of the inverted patch")
    gamma: tuple[float, float] = Field((0.7, 1.5), description="Range of gamma")
    mirror_p: float = Field(0.5, ge=0, le=1, description="Probability of a flip along each axis that the plan allows")

    @model_validator(mode="after")
    def _check(self) -> AugmentationConfig:
        for field in ("scaling", "blur_sigma", "brightness", "contrast", "low_resolution", "gamma"):
            low, high = getattr(self, field)
            if not 0 < low <= high:
                raise ValueError(f"{field} must be a range of positive numbers, lower first, not [{low}, {high}]")
        if self.low_resolution[1] > 1:
            raise ValueError(f"low_resolution factors are at most 1, not {self.low_resolution[1]}")
        return self


class TrainingConfig(Stage):
    """The optimisation.

    The defaults are for the thousands of steps that one machine does, not for nnU-Net's 250,000: on the
    hippocampus AdamW is ahead of its SGD by 1.6 points of Dice after 300 steps (0.871, 0.854).
    """

    steps: int = Field(5000, ge=1, description="Optimiser steps")
    seed: int = Field(0, ge=0, description="Seed of weights, sampling and augmentation")
    optimiser: Literal["sgd", "adamw"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum")
    learning_rate: float = Field(0.002, gt=0, description="Highest learning rate; 0.01 suits SGD")
    momentum: float = Field(0.99, ge=0, lt=1, description="Momentum of SGD")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay; 3e-5 suits SGD")
    poly_exponent: float = Field(0.9, gt=0, description="Learning rate falls as (1 - step/steps) to this power")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear rise to the initial learning rate")
    clip_norm: float = Field(12.0, gt=0, description="Largest norm of the gradient")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the averaged weights that are kept; 0: plain weights"
    )
    foreground: float = Field(1 / 3, ge=0, le=1, description="Share of patches centred on a random labelled structure")
    loss: Literal["dice_ce", "ga"] = Field(
        "dice_ce",
        description="dice_ce: nnU-Net's; ga: balanced between many classes, by the hardest voxels "
        "(docs/unlabelled.md, class balance)",
    )
    dice_weight: float = Field(1.0, ge=0, description="Weight of the Dice loss")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy")
    batch_dice: bool | None = Field(
        None,
        description="Dice over the whole batch instead of each patch; default: in 2D, and where labelled and unlabelled "
        "patches are mixed, because parts of patches lack classes",
    )
    validate_every: int = Field(0, ge=0, description="Steps between whole-volume validations; 0: only at the end")
    patience: int = Field(0, ge=0, description="Validations without a better Dice before stopping; 0: never stop early")
    checkpoint_every: int = Field(250, ge=1, description="Steps between checkpoints for resuming")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic; auto: the fastest safe one"
    )
    loader_threads: int = Field(1, ge=0, description="Threads that prepare batches ahead; 0: in the loop")
    freeze_encoder: bool = Field(False, description="When fine-tuning, leave the encoder's weights as they are")

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.dice_weight == 0 and self.ce_weight == 0:
            raise ValueError("dice_weight and ce_weight are both 0: nothing to learn from")
        if self.patience and not self.validate_every:
            raise ValueError("patience needs validate_every")
        return self


class UnlabelledConfig(Stage):
    """Learning from unlabelled scans; docs/unlabelled.md has the formulas and what each ingredient brought."""

    method: Literal["supervised", "mix-teacher", "pseudo-labels"] = Field(
        "supervised",
        description="supervised: labelled scans alone; mix-teacher: an averaged teacher labels the others at every "
        "step; pseudo-labels: a folder holds their labels",
    )
    labelled_weight: float | Literal["auto"] = Field(
        "auto",
        description="Weight of the labelled loss (lambda), 0 to 1; 1 leaves the unlabelled scans out; "
        "auto: chosen by cross-validation on the labelled scans",
    )
    pseudo_labels: Path | None = Field(None, description="Folder that medseg pseudo-label wrote")
    ramp: float = Field(
        0.4, ge=0, le=1, description="Share of the steps in which the unlabelled loss rises to its weight"
    )
    paste: float = Field(
        2 / 3,
        ge=0,
        lt=1,
        description="Edge of the box pasted between labelled and unlabelled patches, as a share of the patch's; "
        "0: whole patches of either kind take turns",
    )
    threshold: float = Field(
        0.0, ge=0, lt=1, description="Least probability of a temporary label; below it the voxel is ignored"
    )
    adaptive_threshold: bool = Field(
        False, description="Lower the threshold of classes that the teacher is less sure of (FreeMatch)"
    )
    entropy_weight: bool = Field(True, description="Weigh voxels by 1 - normalised entropy of the teacher")
    prototype_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the similarity to class prototypes in temporary labels; 0: the teacher alone",
    )
    prototype_gate: bool = Field(
        False, description="Ignore voxels whose nearest class prototype disagrees with the teacher"
    )
    affinity_weight: float = Field(
        0.0, ge=0, description="Weight (beta) of the loss that draws predictions of similar voxels together; 0: off"
    )

    @model_validator(mode="after")
    def _check(self) -> UnlabelledConfig:
        if self.labelled_weight != "auto" and not 0 <= self.labelled_weight <= 1:
            raise ValueError(f"labelled_weight is auto or a number from 0 to 1, not {self.labelled_weight}")
        if self.method == "pseudo-labels" and self.pseudo_labels is None:
            raise ValueError("method pseudo-labels needs pseudo_labels, the folder that medseg pseudo-label wrote")
        return self


class PseudoLabelConfig(Stage):
    """Labels that teachers write for unlabelled scans, and how students learn from them in rounds.

    docs/unlabelled.md has the formulas, and where the defaults come from.
    """

    flips: bool = Field(True, description="Teachers also look at mirrored scans, along the axes that the plan allows")
    calibrate: bool = Field(True, description="Fit a temperature on out-of-fold cases")
    precision: float = Field(
        0.95, gt=0, le=1, description="Share of right voxels that a class's threshold is chosen for, out of fold"
    )
    thresholds: tuple[float, float] = Field((0.6, 0.95), description="Lowest and highest threshold of a probability")
    keep: float = Field(
        0.5, ge=0, le=1, description="Share of a class's predicted voxels that its threshold lets through at least"
    )
    prototype_gate: bool = Field(True, description="Ignore voxels whose features resemble another class's")
    component_filter: bool = Field(True, description="Ignore parts of a size, number or confidence that is unheard of")
    entropy_weight: bool = Field(True, description="Weigh voxels by 1 - normalised entropy")
    boundary_weight: float = Field(0.5, ge=0, le=1, description="Weight of voxels next to another class")
    similarity_weight: bool = Field(False, description="Weigh scans by how much they resemble the labelled ones")
    leave_out: bool = Field(True, description="Leave out scans that don't seem to belong")
    first_share: float = Field(0.5, gt=0, le=1, description="Share of the scans, the best, that the first round uses")
    rounds: int = Field(2, ge=1, le=3, description="Rounds of pseudo-labels and fresh students, at most")
    folds: int = Field(
        4, ge=2, description="Folds of the teachers; with fewer than four labelled patients, one teacher"
    )
    gate_steps: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of training.steps that the fold students get whom promotion is decided by; below 1 it is "
        "faster and stricter, because the supervised networks had them all",
    )

    @model_validator(mode="after")
    def _check(self) -> PseudoLabelConfig:
        low, high = self.thresholds
        if not 0 <= low <= high <= 1:
            raise ValueError(f"thresholds are two probabilities, lower first, not [{low}, {high}]")
        return self


class PretrainingConfig(Stage):
    """Restoring hidden parts of scans, before any label is learnt; the optimiser is the training's."""

    steps: int = Field(2000, ge=1, description="Optimiser steps")
    hidden: float = Field(0.6, gt=0, lt=1, description="Share of a patch's blocks that are hidden")
    block: int = Field(
        8, ge=1, description="Edge of a hidden block in voxels of the finest axis; coarser axes have fewer"
    )


class InferenceConfig(Stage):
    """How a trained model is applied."""

    overlap: float = Field(0.5, ge=0, lt=1, description="Share of a window that the next one covers again")
    flips: bool = Field(False, description="Average over mirrored scans (up to 8 times the work)")
    window_batch: int = Field(2, ge=1, description="Windows in a forward pass; at least 2 is faster on CPUs")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic; auto: the fastest safe one"
    )


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
    ingest: IngestConfig = Field(
        default_factory=lambda: IngestConfig(), description="Policies for faults of scans; see ingest"
    )


class SegmentConfig(BatchConfig):
    """A batch: many scans, one model. What is left out is as the model was validated."""

    device: str = Field("auto", description="auto, cpu, cuda, or one GPU such as cuda:1")
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
        return model.model_copy(update={name: wish for name, wish in wishes.items() if wish is not None})


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


class ExperimentConfig(Stage):
    """A whole training run: one complete YAML file."""

    name: str = Field("model", min_length=1, description="Name of the model")
    dataset: DatasetConfig = Field(default_factory=lambda: DatasetConfig(), description="Scans, masks and splits")
    plan: PlanConfig = Field(default_factory=lambda: PlanConfig(), description="Wishes for the plan")
    network: NetworkConfig = Field(default_factory=lambda: NetworkConfig(), description="The network")
    augmentation: AugmentationConfig = Field(default_factory=lambda: AugmentationConfig(), description="Random changes")
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig(), description="The optimisation")
    unlabelled: UnlabelledConfig = Field(
        default_factory=lambda: UnlabelledConfig(), description="What is learnt from unlabelled scans"
    )
    pseudo: PseudoLabelConfig = Field(
        default_factory=lambda: PseudoLabelConfig(), description="How pseudo-labels are made, and used in rounds"
    )
    pretraining: PretrainingConfig = Field(
        default_factory=lambda: PretrainingConfig(), description="Self-supervised pre-training"
    )
    inference: InferenceConfig = Field(
        default_factory=lambda: InferenceConfig(), description="Application and validation"
    )


def load_config(path: Path | None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read a configuration file and apply ``section.field=value`` overrides (values are YAML).

    Raises
    ------
    ConfigError
        If the file can't be read, an override is malformed, or any field is unknown or wrong.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _set(values, override)
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path or 'the configuration'}: {describe_problems(error)}") from None


def save_config(config: BaseModel, path: Path) -> None:
    """Write a configuration as YAML, every field resolved."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=110), encoding="utf-8")


def describe_problems(error: ValidationError) -> str:
    """Return every problem of a validation as 'field: what is wrong', joined by semicolons."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from None
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
