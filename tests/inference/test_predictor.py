"""From a scan to a mask on its own grid, with networks whose answer is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.config import InferenceConfig
from medseg.errors import ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.inference.forward import EnsembleForward, mirrorings
from medseg.inference.predictor import Predictor, Stopwatch, segment_prepared
from medseg.labels import LabelMap
from medseg.networks.model import Model
from medseg.outputs import NetworkOutput
from medseg.preprocessing.prepare import prepare_image
from medseg.rules import PostprocessingRules, StructureRule
from medseg.volume import Volume

CPU = torch.device("cpu")
EXACT = InferenceConfig(precision="float32")


def ball(grid: Grid, radii=(6.0, 8.0, 10.0)) -> np.ndarray:
    """An ellipsoid of 1 in -1, with a soft border, about the grid's centre."""
    at = [(np.arange(n) - (n - 1) / 2) * s / r for n, s, r in zip(grid.shape, grid.spacing, radii, strict=True)]
    x, y, z = np.meshgrid(*at, indexing="ij")
    return np.clip(4 * (1 - np.sqrt(x**2 + y**2 + z**2)), -1, 1).astype(np.float32)


def test_a_mask_lies_exactly_on_its_scan(make_plan, labels, threshold, oblique):
    """Equal spacing: the threshold network's mask is the thresholded scan, voxel by voxel."""
    grid = oblique((20, 17, 11), order=(2, 0, 1), flips=(-1, 1, -1))
    image = np.random.default_rng(0).uniform(-1, 1, grid.shape).astype(np.float32)
    prediction = Predictor(Model((threshold,), make_plan(), labels), EXACT).predict(Volume(image[None], grid))
    np.testing.assert_array_equal(prediction.mask.array, np.where(image > 0, 5, 0))
    assert prediction.mask.grid is grid
    assert prediction.mask.array.dtype == np.uint8
    assert {"prepare", "forward", "stitch", "restore"} <= set(prediction.timings)
    assert 0.5 < prediction.confidence < 1


@settings(max_examples=20)
@given(
    spacing=st.tuples(*[st.floats(0.7, 2.5)] * 3),
    wanted=st.tuples(*[st.floats(0.8, 2)] * 3),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    turn=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
)
def test_an_ellipsoid_comes_back_where_it_was(ground, spacing, wanted, order, flips, turn):
    plan, labels, network = ground
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix()[:, list(order)] * np.array(flips) * spacing
    affine[:3, 3] = (100, -20, 3)
    grid = Grid(tuple(int(np.ceil(28 / s)) for s in spacing), affine)
    image = ball(grid)
    predictor = Predictor(Model((network,), plan.model_copy(update={"spacing": wanted}), labels), EXACT)
    mask = predictor.predict(Volume(image[None], grid)).mask.array
    truth = image > 0
    shift = np.subtract(ndimage.center_of_mass(mask), ndimage.center_of_mass(truth)) * grid.spacing
    assert np.linalg.norm(shift) < 0.1 * max(*spacing, *wanted)
    dice = 2 * (truth & (mask == 5)).sum() / (truth.sum() + (mask == 5).sum())
    assert dice > 0.93


@pytest.fixture(scope="module")
def ground():
    from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

    class Threshold(torch.nn.Module):
        def forward(self, image):
            return NetworkOutput(torch.cat([-image, image], dim=1))

    plan = Plan(
        dimensions=3, spacing=(1, 1, 1), slice_axis=2, patch=(16, 16, 16), batch=2, channels=("CT",),
        normalisation=(ChannelNormalisation(kind="clip", low=-1, high=1),), mirror=(True,) * 3,
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1),) * 2),
    )  # fmt: skip
    return plan, LabelMap.parse({"organ": 5}), Threshold()


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 30, 9), (8, 8, 8), (9, 20, 8)])
def test_scans_smaller_than_the_window_and_single_slices(make_plan, labels, threshold, shape):
    image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    volume = Volume(image[None], Grid(shape, np.eye(4)))
    mask = Predictor(Model((threshold,), make_plan(), labels), EXACT).predict(volume).mask.array
    np.testing.assert_array_equal(mask, np.where(image > 0, 5, 0))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_two_dimensional_plans_see_slices(make_plan, labels, threshold, slice_axis):
    patch = [8, 8, 8]
    patch[slice_axis] = 1
    plan = make_plan(dimensions=2, patch=tuple(patch), slice_axis=slice_axis)
    image = np.random.default_rng(0).uniform(-1, 1, (9, 12, 7)).astype(np.float32)
    model = Model((threshold,), plan, labels)
    mask = Predictor(model, InferenceConfig(precision="float32", flips=True)).predict(
        Volume(image[None], Grid(image.shape, np.eye(4)))
    )
    np.testing.assert_array_equal(mask.mask.array, np.where(image > 0, 5, 0))
    assert all(len(shape) == 4 and shape[2:] == (8, 8) for shape in threshold.shapes)


@pytest.mark.parametrize(("learnt", "scanned"), [(("MR",), "CT"), (("CT",), "PT")])
def test_a_scan_that_states_another_modality_is_refused(make_plan, labels, threshold, learnt, scanned):
    predictor = Predictor(Model((threshold,), make_plan(), labels, modalities=learnt), EXACT)
    with pytest.raises(ScanError, match=f"the scan is {scanned}, but the model learnt from {learnt[0]}") as caught:
        predictor.predict(Volume(np.ones((1, 8, 8, 8), np.float32), Grid((8, 8, 8), np.eye(4)), scanned))
    assert caught.value.code == ReasonCode.MODALITY_MISMATCH


@pytest.mark.parametrize(("learnt", "scanned"), [(("CT", "MR"), "MR"), (("MR",), ""), ((), "CT")])
def test_a_modality_that_nothing_contradicts_is_segmented(make_plan, labels, threshold, learnt, scanned):
    predictor = Predictor(Model((threshold,), make_plan(), labels, modalities=learnt), EXACT)
    predictor.predict(Volume(np.ones((1, 8, 8, 8), np.float32), Grid((8, 8, 8), np.eye(4)), scanned))


def test_flips_change_nothing_for_an_equivariant_network(make_plan, threshold):
    windows = torch.randn(2, 1, 8, 8, 8)
    plain = EnsembleForward([threshold], make_plan(), EXACT, CPU)(windows)
    flipped = EnsembleForward([threshold], make_plan(), InferenceConfig(precision="float32", flips=True), CPU)(windows)
    torch.testing.assert_close(flipped, plain)
    assert len(threshold.shapes) == 1 + 8


class Leaning(torch.nn.Module):
    """Says more on one side along every axis: mirrored answers differ, and average out."""

    def forward(self, image):
        ramp = sum(torch.linspace(-1, 1, n).reshape(-1, *[1] * i) for i, n in enumerate(reversed(image.shape[2:])))
        return NetworkOutput(torch.cat([image * 0, image + ramp], dim=1))


@pytest.mark.parametrize(("mirror", "passes"), [((True,) * 3, 8), ((False, True, True), 4), ((False,) * 3, 1)])
def test_only_allowed_axes_are_mirrored(make_plan, mirror, passes):
    plan = make_plan(mirror=mirror)
    assert len(mirrorings(plan)) == passes
    windows = torch.randn(2, 1, 8, 8, 8)
    logits = EnsembleForward([Leaning()], plan, InferenceConfig(precision="float32", flips=True), CPU)(windows)
    lean = (logits[:, 1] - windows[:, 0]).mean(dim=0)
    for axis in range(3):
        along = lean.mean(dim=[other for other in range(3) if other != axis])
        assert (along[-1] - along[0] < 1e-5) == mirror[axis]


def test_folds_are_averaged_as_logits(make_plan, threshold):
    class Twice(torch.nn.Module):
        def forward(self, image):
            return NetworkOutput(torch.cat([-3 * image, 3 * image], dim=1))

    windows = torch.randn(2, 1, 8, 8, 8)
    logits = EnsembleForward([threshold, Twice()], make_plan(), EXACT, CPU)(windows)
    torch.testing.assert_close(logits[:, 1:], 2 * windows)


def test_logits_are_float32_in_any_precision(make_plan):
    network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
    network.forward_plain = network.forward
    wrapped = torch.nn.Module()
    wrapped.network = network
    wrapped.forward = lambda image: NetworkOutput(network.forward_plain(image))
    windows = torch.randn(2, 1, 8, 8, 8)
    exact = EnsembleForward([wrapped], make_plan(), EXACT, CPU)(windows)
    rounded = EnsembleForward([wrapped], make_plan(), InferenceConfig(precision="bf16"), CPU)(windows)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05


def test_postprocessing_of_the_model_is_applied(make_plan, labels, threshold):
    image = np.full((1, 16, 16, 16), -1, dtype=np.float32)
    image[0, 2:6, 2:6, 2:6], image[0, 12, 12, 12] = 1, 1
    volume = Volume(image, Grid((16, 16, 16), np.eye(4)))
    rules = PostprocessingRules(structures={"organ": StructureRule(keep_largest=True)})
    plain = Predictor(Model((threshold,), make_plan(), labels), EXACT).predict(volume)
    cleaned = Predictor(Model((threshold,), make_plan(), labels, postprocessing=rules), EXACT).predict(volume)
    assert plain.mask.array[12, 12, 12] == 5
    assert cleaned.mask.array[12, 12, 12] == 0
    assert (cleaned.mask.array == 5).sum() == 64
    assert "postprocess" in cleaned.timings


def test_segmenting_a_prepared_scan_equals_predicting_it(make_plan, labels, threshold, oblique):
    grid = oblique((15, 14, 13), spacing=(1.4, 0.8, 1.9))
    volume, plan = Volume(ball(grid)[None], grid), make_plan()
    predicted = Predictor(Model((threshold,), plan, labels), EXACT).predict(volume).mask
    segmented = segment_prepared([threshold], prepare_image(volume, plan), plan, labels, EXACT, CPU).mask
    np.testing.assert_array_equal(segmented.array, predicted.array)


def test_equal_settings_give_equal_masks(make_plan, labels, oblique):
    from medseg.networks.build import build_network

    torch.manual_seed(0)
    plan = make_plan()
    model = Model((build_network(plan, labels.outputs),), plan, labels)
    grid = oblique((15, 14, 13), spacing=(1.4, 0.8, 1.9))
    volume = Volume(np.random.default_rng(0).normal(size=(1, *grid.shape)).astype(np.float32), grid)
    first, second = (Predictor(model).predict(volume) for _ in range(2))
    np.testing.assert_array_equal(first.mask.array, second.mask.array)
    assert first.confidence == second.confidence
    assert not model.networks[0].training


def test_wrong_channels_are_refused(make_plan, labels, threshold):
    volume = Volume(np.zeros((2, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
    with pytest.raises(ScanError, match="2 channel"):
        Predictor(Model((threshold,), make_plan(), labels)).predict(volume)


def test_a_stage_within_a_stage_counts_once():
    watch = Stopwatch()
    with watch.stage("outer"):
        with watch.stage("inner"):
            total = sum(range(200_000))
        with watch.stage("inner"):
            total += 1
    assert watch.seconds["outer"] < watch.seconds["inner"]


def test_segmenting_never_imports_monai():
    """It costs 2 to 3 s, more than segmenting a small scan."""
    code = "import medseg.inference.predictor, sys; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PEAK_MEMORY = """
import resource
import numpy as np, torch
from medseg.config import InferenceConfig
from medseg.geometry import Grid
from medseg.inference.predictor import Predictor
from medseg.labels import LabelMap
from medseg.networks.model import Model
from medseg.outputs import NetworkOutput
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.volume import Volume

class Stripes(torch.nn.Module):
    def forward(self, image):
        return NetworkOutput(torch.cat([image * np.cos(k) for k in range(100)], dim=1))

plan = Plan(
    dimensions=3, spacing=(1, 1, 1), slice_axis=2, patch=(16, 16, 16), batch=2, channels=("MR",),
    normalisation=(ChannelNormalisation(kind="zscore"),), mirror=(True,) * 3,
    network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1),) * 2),
)
labels = LabelMap.parse({f"c{i}": i for i in range(1, 100)})
predictor = Predictor(Model((Stripes(),), plan, labels), InferenceConfig(overlap=0.0))

def megabytes(length):
    x = np.linspace(-3, 3, length)[:, None, None] * np.ones((1, 40, 40))
    predictor.predict(Volume(x[None].astype(np.float32), Grid(x.shape, np.eye(4))))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

print(megabytes(40), megabytes(40), megabytes(800))
"""


def test_memory_does_not_grow_with_classes_times_volume():
    """100 classes: the logits of 800 layers are 512 MB, those of a window's layers 10 MB."""
    done = subprocess.run([sys.executable, "-c", PEAK_MEMORY], capture_output=True, text=True, check=True)
    _, short, long = map(float, done.stdout.split())
    assert long - short < 100
