"""Depth, strides and kernels against nnU-Net's published plans, and what each architecture asks of a patch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import NetworkConfig
from medseg.errors import PlanError
from medseg.planning.topology import Architect, grow_stages, round_up

SPACINGS = st.tuples(*[st.floats(0.2, 8.0)] * 3)
PATCHES = st.tuples(*[st.integers(1, 200)] * 3)


def architect(axes: tuple[int, ...] = (0, 1, 2), channels: int = 1, **network: object) -> Architect:
    return Architect(NetworkConfig.model_validate(network), (1.0, 1.0, 1.0), axes, channels)


@pytest.mark.parametrize(
    ("spacing", "patch", "divisor", "stages"),
    [
        # nnU-Net's published plans (Nature Methods 2021, supplement), axes in our order
        ((1.0, 1.0, 1.0), (36, 50, 35), (8, 8, 8), 4),  # Task04 hippocampus
        ((1.0, 1.0, 1.0), (128, 128, 128), (32, 32, 32), 6),  # Task01 brain tumour
        ((0.625, 0.625, 3.6), (256, 320, 20), (64, 64, 4), 7),  # Task05 prostate: z first in plane only
        ((1.25, 1.25, 1.37), (160, 192, 80), (32, 32, 16), 6),  # Task02 heart
    ],
)
def test_published_plans(
    spacing: tuple[float, float, float], patch: tuple[int, int, int], divisor: tuple[int, int, int], stages: int
) -> None:
    strides, kernels = grow_stages(spacing, patch, (0, 1, 2))
    product = tuple(_product(stride[axis] for stride in strides) for axis in range(3))
    assert product == divisor
    assert len(strides) == len(kernels) == stages


def test_thick_slices_are_left_alone_until_the_plane_is_as_coarse() -> None:
    strides, kernels = grow_stages((0.625, 0.625, 3.6), (256, 320, 20), (0, 1, 2))
    assert [stride[2] for stride in strides] == [1, 1, 1, 2, 2, 1, 1]
    assert [kernel[2] for kernel in kernels] == [1, 1, 3, 3, 3, 3, 3]


@given(spacing=SPACINGS, patch=PATCHES, slice_axis=st.integers(0, 2))
def test_two_dimensional_networks_do_nothing_across_slices(
    spacing: tuple[float, float, float], patch: tuple[int, int, int], slice_axis: int
) -> None:
    axes = tuple(axis for axis in range(3) if axis != slice_axis)
    strides, kernels = grow_stages(spacing, patch, axes)
    assert {stride[slice_axis] for stride in strides} == {kernel[slice_axis] for kernel in kernels} == {1}


@given(spacing=SPACINGS, patch=PATCHES, name=st.sampled_from(["unet", "segresnet", "vnet", "swinunetr"]))
def test_a_design_holds_the_wanted_patch_and_is_one_the_network_can_halve(
    spacing: tuple[float, float, float], patch: tuple[int, int, int], name: str
) -> None:
    design = Architect(NetworkConfig(name=name), spacing, (0, 1, 2), 1).design(patch)  # type: ignore[arg-type]
    divisor = design.network.divisor
    assert all(size >= wanted for size, wanted in zip(design.patch, patch, strict=True))
    assert all(size % d == 0 for size, d in zip(design.patch, divisor, strict=True))
    assert len(design.network.strides) >= 2
    bottom = [size // d for size, d in zip(design.patch, divisor, strict=True)]
    assert max(bottom) >= 2  # instance norm needs more than one voxel


@pytest.mark.parametrize(
    ("name", "wanted", "patch", "features"),
    [
        ("segresnet", (36, 50, 35), (40, 56, 40), (32, 64, 128, 256)),
        ("vnet", (36, 50, 35), (48, 64, 48), (16, 32, 64, 128, 256)),
        ("swinunetr", (36, 50, 35), (64, 64, 64), (36, 36, 72, 144, 288, 576)),
        ("swinunetr", (32, 32, 20), (64, 32, 32), (36, 36, 72, 144, 288, 576)),
    ],
)
def test_fixed_architectures(
    name: str, wanted: tuple[int, int, int], patch: tuple[int, int, int], features: tuple[int, ...]
) -> None:
    design = architect(name=name).design(wanted)
    assert (design.patch, design.network.features) == (patch, features)


def test_features_double_up_to_the_limit() -> None:
    assert architect(features=24, max_features=100).design((64, 64, 64)).network.features == (24, 48, 96, 100, 100)


@pytest.mark.parametrize(
    ("channels", "network", "message"),
    [
        (3, {"name": "vnet"}, r"vnet takes 1, 2, 4, 8 or 16 channels, the dataset has 3"),
        (1, {"name": "segresnet", "dropout": 0.2}, r"segresnet has no dropout: network.dropout must be 0, not 0.2"),
    ],
)
def test_impossible_networks_are_refused(channels: int, network: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        architect(channels=channels, **network).design((32, 32, 32))


def test_round_up() -> None:
    assert round_up((1, 8, 9), (8, 8, 8)) == (8, 8, 16)


def _product(values: object) -> int:
    total = 1
    for value in values:  # type: ignore[attr-defined]
        total *= value
    return total
