"""Dataset, plan, network, augmentation and optimisation of a training run."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from medseg.config.ingest import IngestConfig
from medseg.config.stage import Precision, Stage

Triple = tuple[float, float, float]

HomePath = Annotated[Path, AfterValidator(lambda path: Path(expanduser(path)))]
"""A path that may begin with ``~``: no shell has seen what is written in a file."""


class DatasetConfig(Stage):
    """Where the scans and masks are, and which of them train."""

    folder: HomePath = Field(Path("."), description="Dataset folder; its layout is recognised (see docs/tutorial.md)")
    labels: dict[str, Any] | None = Field(
        None, description="Label map, 'name: value' pairs or the full form; default: the dataset's own file"
    )
    splits: Path | None = Field(None, description="JSON file of named lists of case ids, relative to the folder")
    train: str | list[str] | None = Field(
        None, description="Training cases: a list in the splits file, or ids; default: its list train, else all others"
    )
    validation: str | list[str] | None = Field(
        None, description="Held-out cases: a list in the splits file, or ids; default: its list validation, else none"
    )
    modality: Literal["ct", "mr", "other"] | None = Field(
        None, description="Kind of intensities of every channel; default: from the dataset's files"
    )
    patients: str | None = Field(
        None,
        description="Regular expression whose first group, searched in the case id, is the patient; "
        "default: what DICOM headers say, else every case is a patient of its own",
    )
    ingest: IngestConfig = Field(
        default_factory=IngestConfig, description="Policies for faults of scans; see ingest below"
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
    max_features: int = Field(320, ge=8, description="Upper limit of feature maps of a stage (unet)")
    residual: bool = Field(False, description="Residual encoder blocks (unet)")
    deep_supervision: bool = Field(True, description="Also learn from the decoder's coarser outputs (unet, segresnet)")
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
        description="Dice over the whole batch instead of each patch; default: in 2D, and where labelled and "
        "unlabelled patches are mixed, because parts of patches lack classes",
    )
    validate_every: int = Field(0, ge=0, description="Steps between whole-volume validations; 0: only at the end")
    patience: int = Field(0, ge=0, description="Validations without a better Dice before stopping; 0: never stop early")
    checkpoint_every: int = Field(250, ge=1, description="Steps between checkpoints for resuming")
    precision: Precision = Field("auto", description="Arithmetic; auto: the fastest safe one")
    loader_threads: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Threads that prepare batches ahead; 0: in the loop; auto: 1, beside a GPU up to 4",
    )
    freeze_encoder: bool = Field(False, description="When fine-tuning, leave the encoder's weights as they are")

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.dice_weight == 0 and self.ce_weight == 0:
            raise ValueError("dice_weight and ce_weight are both 0: nothing to learn from")
        if self.patience and not self.validate_every:
            raise ValueError("patience needs validate_every")
        return self


class PretrainingConfig(Stage):
    """Restoring hidden parts of scans, before any label is learnt; the optimiser is the training's."""

    steps: int = Field(2000, ge=1, description="Optimiser steps")
    hidden: float = Field(0.6, gt=0, lt=1, description="Share of a patch's blocks that are hidden")
    block: int = Field(
        8, ge=1, description="Edge of a hidden block in voxels of the finest axis; coarser axes have fewer"
    )
