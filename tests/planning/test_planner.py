"""Plans: nnU-Net's for known datasets, valid and within budget for any, and wishes respected or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medseg.config import NetworkConfig, PlanConfig
from medseg.errors import PlanError
from medseg.labels import LabelMap
from medseg.plan import Plan, load_plan, save_plan
from medseg.planning.fingerprint import PROBABILITIES, CaseFingerprint, Fingerprint, ForegroundIntensities
from medseg.planning.memory import budget, feature_values
from medseg.planning.planner import describe_plan, plan_dataset

LABELS = LabelMap.parse({"organ": 1, "tumour": 2})
Triple = tuple[float, float, float]


def case(
    number: int,
    shape: tuple[int, int, int] = (36, 50, 35),
    spacing: Triple = (1.0, 1.0, 1.0),
    low: float = 0.0,
    high: float = 100.0,
    **measured: Any,
) -> CaseFingerprint:
    spread = tuple(low + (high - low) * p for p in PROBABILITIES)
    foreground = ForegroundIntensities(mean=(low + high) / 2, std=(high - low) / math.sqrt(12), quantiles=spread)
    return CaseFingerprint(
        id=f"case_{number}",
        shape=shape,
        content_shape=shape,
        spacing=spacing,
        channels=1,
        foreground=(foreground,),
        volumes_ml={"organ": 1.0, "tumour": 0.5},
        **measured,
    )


def dataset(count: int = 40, **values: Any) -> Fingerprint:
    return Fingerprint(cases=tuple(case(number, **values) for number in range(count)))


def plan(
    fingerprint: Fingerprint, *, network: dict[str, Any] | None = None, modality: str = "mr", **wishes: Any
) -> Plan:
    return plan_dataset(
        fingerprint, PlanConfig(**wishes), NetworkConfig(**(network or {})), LABELS, ["image"], [modality]
    )


class TestKnownDatasets:
    def test_hippocampus(self) -> None:
        found = plan(dataset(40))
        assert (found.patch, found.batch, found.spacing) == ((40, 56, 40), 2, (1.0, 1.0, 1.0))
        assert found.network.features == (32, 64, 128, 256)
        assert plan(dataset(200)).batch == 7  # 5 % of the voxels of 200 scans

    def test_brain_tumour(self) -> None:
        """Task01: nnU-Net planned 128x128x128, batch 2, 6 stages, for median 138x169x138 voxels of 1 mm."""
        found = plan(dataset(484, shape=(138, 169, 138)))
        assert found.patch == (128, 128, 128)
        assert (found.batch, len(found.network.strides)) == (2, 6)

    def test_prostate(self) -> None:
        """Task05: nnU-Net planned 20x320x256 (z first), batch 2, for median 20x320x319 at 3.6x0.62x0.62 mm."""
        found = plan(dataset(32, shape=(319, 320, 20), spacing=(0.62, 0.62, 3.6)))
        assert sorted(found.patch) == [20, 256, 320]
        assert found.patch[2] == 20
        assert (found.batch, found.slice_axis) == (2, 2)


class TestSpacing:
    def test_median(self) -> None:
        cases = [case(n, spacing=(s, s, 2 * s)) for n, s in enumerate((0.5, 0.7, 3.0))]
        assert plan(Fingerprint(cases=tuple(cases))).spacing == (0.7, 0.7, 1.4)

    def test_thick_slices_take_the_fine_percentile_in_3d_only(self) -> None:
        cases = [case(n, shape=(300, 300, 20), spacing=(0.6, 0.6, float(z))) for n, z in enumerate(range(2, 13))]
        fingerprint = Fingerprint(cases=tuple(cases))
        found = plan(fingerprint)
        assert found.spacing == (0.6, 0.6, 3.0)
        assert "10th percentile" in found.reasons["spacing"]
        assert plan(fingerprint, dimensions=2).spacing == (0.6, 0.6, 7.0)

    def test_thick_slices_never_become_finer_than_the_plane(self) -> None:
        spacings = [(1.0, 1.0, 0.5)] * 3 + [(1.0, 1.0, 4.0)] * 7
        cases = [case(n, shape=(300, 300, 20), spacing=s) for n, s in enumerate(spacings)]
        found = plan(Fingerprint(cases=tuple(cases)))
        assert found.spacing == (1.0, 1.0, 1.0)
        assert "10th percentile, but at least the others' 1 mm" in found.reasons["spacing"]

    def test_coarse_axis_with_many_voxels_keeps_the_median(self) -> None:
        cases = [case(n, shape=(60, 60, 60), spacing=(1.0, 1.0, float(z))) for n, z in enumerate(range(2, 13))]
        assert plan(Fingerprint(cases=tuple(cases))).spacing == (1.0, 1.0, 7.0)

    @pytest.mark.parametrize(
        ("spacing", "axis"),
        [((1, 1, 1), 2), ((1, 1.05, 1), 2), ((1, 3, 1), 1), ((4, 1, 1), 0), ((3, 3, 1), 1), ((0.8, 0.8, 0.7), 1)],
    )
    def test_slice_axis(self, spacing: Triple, axis: int) -> None:
        assert plan(dataset(spacing=spacing)).slice_axis == axis

    @pytest.mark.parametrize(("shape", "axis"), [((40, 36, 1), 2), ((1, 36, 40), 0), ((40, 1, 36), 1)])
    def test_single_slices_are_the_slices_however_thin(self, shape: tuple[int, int, int], axis: int) -> None:
        """Of pixels of 1.4 mm and a thickness of 1 mm that nobody measured, the network saw lines."""
        spacing = tuple(1.0 if size == 1 else 1.4 for size in shape)
        found = plan(dataset(shape=shape, spacing=spacing), dimensions=2)
        assert found.slice_axis == axis
        assert all(size == 1 if a == axis else size >= 32 for a, size in enumerate(found.patch))

    def test_a_single_line_has_no_slice_axis_of_its_own(self) -> None:
        assert plan(dataset(shape=(40, 1, 1), spacing=(1, 1, 1))).slice_axis == 2


class TestNormalisation:
    def test_ct_is_clipped_to_the_foreground(self) -> None:
        found = plan(dataset(low=-200, high=300), modality="ct").normalisation[0]
        assert found.kind == "clip"
        assert (found.low, found.high) == (pytest.approx(-197.5), pytest.approx(297.5))
        assert (found.mean, found.std) == (pytest.approx(50), pytest.approx(500 / math.sqrt(12), rel=1e-5))

    @pytest.mark.parametrize("modality", ["mr", "other"])
    def test_everything_else_is_z_scored(self, modality: str) -> None:
        assert plan(dataset(), modality=modality).normalisation[0].kind == "zscore"

    def test_unstated_ct_is_hinted_at_by_the_air_around_the_body(self) -> None:
        liver = dataset(low=0, high=150, darkest=(-1000.0,))
        assert "looks like CT" in plan(liver, modality="other").reasons["normalisation"]
        assert "looks like CT" not in plan(dataset(darkest=(-3.0,)), modality="other").reasons["normalisation"]

    def test_constant_foreground_does_not_divide_by_zero(self) -> None:
        assert plan(dataset(low=40, high=40), modality="ct").normalisation[0].std == 1.0

    def test_ct_without_foreground_is_refused(self) -> None:
        bare = case(0).model_copy(update={"foreground": ()})
        with pytest.raises(PlanError, match="no mask has foreground to learn its range from"):
            plan(Fingerprint(cases=(bare,)), modality="ct")


class TestMirror:
    def test_all_axes_where_nothing_is_sided(self) -> None:
        assert plan(dataset()).mirror == (True, True, True)

    @pytest.mark.parametrize(
        "labels",
        [{"kidney_left": 1, "kidney_right": 2}, {"left_lung": [1, 2], "right_lung": [3, 4]}],  # lobes without names
    )
    def test_not_left_to_right_where_labels_or_regions_are_sided(self, labels: dict[str, object]) -> None:
        sided = LabelMap.parse(labels)
        found = plan_dataset(dataset(), PlanConfig(), NetworkConfig(), sided, ["image"], ["mr"])
        assert found.mirror == (False, True, True)

    def test_wish_wins(self) -> None:
        assert plan(dataset(), mirror=(False, False, True)).mirror == (False, False, True)


class TestWishes:
    def test_all_at_once(self) -> None:
        found = plan(dataset(), spacing=(2, 2, 2), patch=(32, 32, 16), batch=5, mirror=(False, False, False))
        assert (found.spacing, found.patch, found.batch) == ((2, 2, 2), (32, 32, 16), 5)
        for field in ("spacing", "patch", "batch", "mirror"):
            assert found.reasons[field] == "set by the configuration"

    def test_patch_is_enlarged_never_cut(self) -> None:
        found = plan(dataset(), patch=(50, 50, 30))
        assert found.patch == (56, 56, 32)
        assert found.reasons["patch"] == "set by the configuration as 50x50x30, enlarged to fit the network's strides"

    def test_larger_batch_means_smaller_patch(self) -> None:
        big = dataset(100, shape=(300, 300, 300))
        assert math.prod(plan(big, batch=8).patch) < math.prod(plan(big, batch=2).patch)

    def test_patch_larger_than_the_scans_is_allowed(self) -> None:
        assert plan(dataset(shape=(10, 10, 10)), patch=(64, 64, 64)).patch == (64, 64, 64)

    @pytest.mark.parametrize(
        ("wishes", "message"),
        [
            ({"patch": (512, 512, 512)}, r"plan.patch 512x512x512 takes about \d+ GB at batch 1, and memory_gb is 8"),
            ({"patch": (64, 64, 64), "batch": 500}, r"takes about \d+ GB at batch 500"),
            ({"patch": (64, 0, 64)}, r"at least 1 voxel along every axis, not 64x0x64"),
            ({"patch": (64, 64, 64), "dimensions": 2}, r"64x64x64 must be 1 along z"),
            ({"spacing": (1, 0, 1)}, r"plan.spacing must be positive along every axis, not 1x0x1 mm"),
            ({"memory_gb": 0.0001}, r"memory_gb 0.0001 is too little: the smallest patch of this network \(\d"),
            ({"batch": 100_000}, r"memory_gb 8 is too little"),
        ],
    )
    def test_impossible(self, wishes: dict[str, Any], message: str) -> None:
        with pytest.raises(PlanError, match=message):
            plan(dataset(), **wishes)

    def test_channels_must_agree(self) -> None:
        with pytest.raises(PlanError, match="case_0 has 1 channels, the dataset names 2"):
            plan_dataset(dataset(), PlanConfig(), NetworkConfig(), LABELS, ["a", "b"], ["mr", "mr"])
        with pytest.raises(PlanError, match="1 channels need as many modalities, not 2"):
            plan_dataset(dataset(), PlanConfig(), NetworkConfig(), LABELS, ["a"], ["mr", "mr"])


@example(
    shape=(1, 449, 513), spacing=(2.0, 1.0, 1.0), memory_gb=3.0, cases=1, dimensions=2, name="unet", features=8
)  # 513 voxels halved 7 times: padded to 640
@settings(deadline=None, max_examples=150)
@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 10.0)] * 3),
    memory_gb=st.floats(1.0, 80.0),
    cases=st.integers(1, 300),
    dimensions=st.sampled_from([2, 3]),
    name=st.sampled_from(["unet", "segresnet", "vnet", "swinunetr"]),
    features=st.sampled_from([8, 32, 48]),
)
def test_any_dataset_gets_a_plan_within_its_budget(
    shape: tuple[int, int, int],
    spacing: Triple,
    memory_gb: float,
    cases: int,
    dimensions: int,
    name: str,
    features: int,
) -> None:
    fingerprint = dataset(1, shape=shape, spacing=spacing)
    fingerprint = Fingerprint(cases=fingerprint.cases * cases)
    found = plan(
        fingerprint, network={"name": name, "features": features}, dimensions=dimensions, memory_gb=memory_gb
    )  # a Plan checks that its patch is a multiple of the strides' product, and 1 across 2D slices
    used = feature_values(found.network, found.patch, LABELS.outputs) * found.batch
    assert used <= budget(memory_gb, dimensions)
    assert found.batch >= 2
    if shape.count(1) == 1:
        assert found.slice_axis == shape.index(1)
    else:
        assert found.spacing[found.slice_axis] * 1.1 >= max(found.spacing)
    if name == "unet":  # an axis is never halved more often than a finer one that is as long
        finest = min(range(3), key=lambda axis: found.spacing[axis] if found.patch[axis] > 1 else math.inf)
        coarsest = found.slice_axis
        if found.patch[finest] >= found.patch[coarsest]:
            assert found.network.divisor[coarsest] <= found.network.divisor[finest]
    assert all(
        size < max(median, 2 * 32) + divisor
        for size, median, divisor in zip(
            found.patch, fingerprint.median_content_shape(found.spacing), found.network.divisor, strict=True
        )
    )  # no more padding than the strides ask for


class TestReading:
    def test_plan_file_round_trip(self, tmp_path: Path) -> None:
        for dimensions in (2, 3):
            found = plan(dataset(low=-100, high=200), modality="ct", dimensions=dimensions)
            save_plan(found, tmp_path / "plan.yaml")
            assert load_plan(tmp_path / "plan.yaml") == found

    def test_description_has_a_reason_for_every_field(self) -> None:
        found = plan(dataset())
        lines = describe_plan(found)
        assert [line.field for line in lines] == list(Plan.model_fields)[:-1]
        assert all(line.value and line.reason for line in lines)
        values = {field: value for field, value, _ in lines}
        assert values["patch"] == "40x56x40 voxels"
        assert values["network"] == "unet, 4 stages of 32, 64, 128, 256 features"
        assert values["mirror"] == "x, y, z"

    def test_an_edited_plan_without_reasons_is_described(self) -> None:
        found = plan(dataset()).model_copy(update={"reasons": {}, "mirror": (False, False, False)})
        assert {line.value for line in describe_plan(found) if line.field == "mirror"} == {"none"}
