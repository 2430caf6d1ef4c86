"""Learning from the answers of larger, trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from medseg.config.stage import Stage


class DistillationConfig(Stage):
    """A small student learns what a trained teacher answers (docs/light_models.md); no teachers: nothing changes."""

    teachers: tuple[Path, ...] = Field(
        (), description="Model folders whose averaged logits are learnt; their plan is the student's, but for the width"
    )
    width: float = Field(
        0.5, gt=0, le=1, description="Feature maps of each stage of the student, as a share of the first teacher's"
    )
    coarse: bool = Field(
        False,
        description="The student does without the teacher's finest stage: its first convolution strides over it, and "
        "its head undoes that; three to four times as fast again",
    )
    start: Literal["pruned", "random"] = Field(
        "pruned",
        description="pruned: the student starts with the teacher's most important feature maps (unet without residual "
        "blocks); random: with random weights",
    )
    temperature: float = Field(
        2.0, ge=1, description="Logits are divided by it before they are compared, which shows what comes second"
    )
    share: float = Field(
        0.5, gt=0, le=1, description="Weight of the teachers' answers against the labels' loss; 1: labels are not used"
    )
    unlabelled: bool = Field(True, description="Also learn what the teachers answer for scans without a mask")
