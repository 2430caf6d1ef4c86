"""The plan: every decision that a network is built from and a scan is prepared by, as a readable file.

A plan is made by `medseg.planning` from a fingerprint, kept as ``plan.yaml``, may be edited by
a person, and travels inside the model. All triples are along x, y, z of canonical (RAS) order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from medseg.config import describe_problems
from medseg.errors import PlanError
from medseg.records import Record
from medseg.text import first_line

Sizes = tuple[int, int, int]


class _Part(Record):
    model_config = ConfigDict(allow_inf_nan=False)


class ChannelNormalisation(_Part):
    """How one channel's intensities are brought to the network's scale."""

    kind: Literal["clip", "zscore"] = Field(
        description="clip: clip to [low, high], then (x - mean) / std of the data set (CT); "
        "zscore: each scan to mean 0 and standard deviation 1 (MR)"
    )
    low: float = Field(0.0, description="Lower clipping bound: 0.5 percentile of the foreground")
    high: float = Field(0.0, description="Upper clipping bound: 99.5 percentile of the foreground")
    mean: float = Field(0.0, description="Mean of the foreground")
    std: float = Field(1.0, gt=0, description="Standard deviation of the foreground")

    @model_validator(mode="after")
    def _check(self) -> ChannelNormalisation:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, or all voxels are equal: {self.low:g} and {self.high:g}")
        return self


class NetworkPlan(_Part):
    """Topology of the network, finest stage first."""

    name: Literal["unet", "segresnet", "vnet", "swinunetr"] = Field("unet", description="Architecture")
    features: tuple[int, ...] = Field(min_length=2, description="Feature maps of each stage")
    kernels: tuple[Sizes, ...] = Field(description="Convolution kernel of each stage; 1 across a coarse axis")
    strides: tuple[Sizes, ...] = Field(
        description="Downsampling before each stage; the first is 1, 1, 1, but in light networks, whose heads undo it"
    )
    convolutions: int = Field(2, ge=1, description="Convolutions in each stage of encoder and decoder")
    residual: bool = Field(False, description="Residual encoder blocks")
    deep_supervision: bool = Field(True, description="Coarser decoder outputs are learnt from, too")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability that a feature map is dropped")

    @model_validator(mode="after")
    def _check(self) -> NetworkPlan:
        if not len(self.features) == len(self.kernels) == len(self.strides):
            raise ValueError("features, kernels and strides need one entry a stage")
        if min(self.features) < 1 or min(map(min, self.strides)) < 1:
            raise ValueError("features and strides must be at least 1")
        if any(size < 1 or size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError("kernels must be odd, so that an output lies over the middle of what it reads")
        if self.name != "unet" and self.strides[0] != (1, 1, 1):
            raise ValueError("the first stride must be 1, 1, 1")
        return self

    @property
    def divisor(self) -> Sizes:
        """What a patch's sizes must be multiples of: the product of the strides."""
        total = [1, 1, 1]
        for stride in self.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
        return total[0], total[1], total[2]


class Plan(_Part):
    """Preprocessing, patch and network for one dataset."""

    dimensions: Literal[2, 3] = Field(description="2D slices or 3D patches")
    spacing: tuple[float, float, float] = Field(description="Voxel spacing of the network's grid, mm")
    slice_axis: Literal[0, 1, 2] = Field(
        description="Coarsest axis, of single slices the one across; a 2D network sees slices across it"
    )
    patch: Sizes = Field(description="Training patch and inference window, voxels; 1 along slice_axis in 2D")
    batch: int = Field(ge=1, description="Patches in a training step")
    channels: tuple[str, ...] = Field(min_length=1, description="Name of each input channel")
    normalisation: tuple[ChannelNormalisation, ...] = Field(description="One for each channel")
    mirror: tuple[bool, bool, bool] = Field(description="Axes that may be mirrored in training and testing")
    network: NetworkPlan = Field(description="Topology")
    reasons: dict[str, str] = Field(default_factory=dict, description="Why each choice was made")

    @model_validator(mode="after")
    def _check(self) -> Plan:
        problems = []
        if min(self.spacing) <= 0:
            problems.append(f"spacing must be positive, not {self.spacing}")
        if len(self.normalisation) != len(self.channels):
            problems.append("normalisation needs one entry a channel")
        if any(size < 1 or size % d for size, d in zip(self.patch, self.network.divisor, strict=True)):
            problems.append(f"patch {self.patch} must be a multiple of the strides' product {self.network.divisor}")
        if self.dimensions == 2 and self.patch[self.slice_axis] != 1:
            problems.append(f"a 2D patch is 1 voxel thick along slice_axis {self.slice_axis}, not {self.patch}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def load_plan(path: Path) -> Plan:
    """Read a plan file; raises `PlanError` naming every wrong field."""
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise PlanError(f"{path}: {describe_problems(error)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{path}: not a readable plan ({first_line(error)})") from None


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan as YAML that a person can read and edit."""
    path.write_text(
        yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110),
        encoding="utf-8",
    )
