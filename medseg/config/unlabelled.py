"""Learning from unlabelled scans, and how pseudo-labels are made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medseg.config.stage import Stage


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
    leave_out: bool = Field(
        True,
        description="Leave out unlabelled scans that can't be read or don't look like the labelled ones; "
        "pseudo.leave_out does so where teachers write pseudo-labels",
    )
    labelled_first: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="Share of the steps that see labelled scans alone, before mix-teacher mixes the others in",
    )
    ramp: float = Field(
        0.2, ge=0, le=1, description="Share of the mixed steps in which the unlabelled loss rises to its weight"
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

    @property
    def mixed_from(self) -> float:
        """Share of the steps after which scans are mixed: only an averaged teacher must learn something first."""
        return self.labelled_first if self.method == "mix-teacher" else 0.0

    @model_validator(mode="after")
    def _check(self) -> UnlabelledConfig:
        if self.labelled_weight != "auto" and not 0 <= self.labelled_weight <= 1:
            raise ValueError(f"labelled_weight is auto or a number from 0 to 1, not {self.labelled_weight}")
        if self.adaptive_threshold and not self.threshold:
            raise ValueError("adaptive_threshold lowers threshold, which is 0; set threshold, such as 0.7")
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
    prototype_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the similarity to class prototypes in pseudo-labels; 0: the teachers alone",
    )
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
