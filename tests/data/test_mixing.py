from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import AugmentationConfig, TrainingConfig, UnlabelledConfig
from medseg.data.batches import BatchStream, prefetch
from medseg.data.mixing import MixedStream, draw_box, mix
from medseg.data.sampling import Randomness
from medseg.errors import DatasetError

PLAIN = AugmentationConfig(
    **{f"{name}_p": 0.0 for name in ("rotation", "scaling", "noise", "blur", "brightness", "contrast", "gamma")},
    low_resolution_p=0.0,
    gamma_inverted_p=0.0,
    mirror_p=0.0,
)


@pytest.fixture
def stream_of(plan_of, case_of):
    def make(augmentation=PLAIN, plan=None, seed=1, unlabelled=None, **mixing):
        plan = plan or plan_of()
        randomness = Randomness(seed)
        labelled = BatchStream([case_of(seed=i) for i in range(2)], plan, augmentation, TrainingConfig(), randomness)
        others = [case_of(seed=i) for i in (7, 8, 9)] if unlabelled is None else unlabelled
        mixed = UnlabelledConfig(**{"method": "mix-teacher", "paste": 0.5, "labelled_first": 0.0, **mixing})
        return MixedStream(labelled, others, augmentation, TrainingConfig(steps=100), randomness, mixed)

    return make


@given(
    patch=st.tuples(*[st.integers(1, 20)] * 3),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_a_box_lies_within_the_patch_and_has_its_share_of_every_edge(patch, share, seed):
    box = draw_box(patch, share, np.random.default_rng(seed))
    places = box.nonzero()
    edges = places.max(0).values - places.min(0).values + 1
    assert edges.tolist() == [max(1, round(share * n)) for n in patch]
    assert box.sum() == edges.prod()


def test_mixing_conserves_voxels_and_labels():
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.rand(2, 1, 8, 9, 10, generator=rng) for _ in range(2))
    labels = [torch.randint(0, 3, (2, 8, 9, 10), generator=rng, dtype=torch.uint8) for _ in range(2)]
    paste = torch.stack([draw_box((8, 9, 10), 0.6, np.random.default_rng(i)) for i in range(2)])
    images, targets = mix(one, other, paste), mix(*labels, paste)
    back_images, back_targets = mix(other, one, paste), mix(labels[1], labels[0], paste)
    torch.testing.assert_close(images + back_images, one + other)
    assert torch.equal(images[:, 0][paste], one[:, 0][paste])
    assert torch.equal(targets[~paste], labels[1][~paste])
    assert sum((t == 1).sum() for t in labels) == (targets == 1).sum() + (back_targets == 1).sum()


def test_labelled_patches_are_those_of_training_without_unlabelled_scans(stream_of):
    stream = stream_of(AugmentationConfig())
    batch, alone = stream.batch(3), stream.labelled.batch(3)
    assert torch.equal(batch["image"], alone["image"])
    assert torch.equal(batch["target"], alone["target"])


def test_the_first_steps_see_labelled_patches_alone(stream_of):
    stream = stream_of(labelled_first=0.25)
    assert ["unlabelled" in stream.batch(step) for step in (0, 24, 25, 99)] == [False, False, True, True]


def test_only_an_averaged_teacher_must_learn_something_first(stream_of, tmp_path):
    for known in ({"method": "pseudo-labels", "pseudo_labels": tmp_path}, {"method": "supervised"}):
        assert "unlabelled" in stream_of(labelled_first=0.25, **known).batch(0)


def test_a_step_is_the_same_at_every_call_and_on_any_thread(stream_of):
    ahead = list(prefetch(stream_of(AugmentationConfig()), 2, 5, 2))
    for step, batch in enumerate(ahead, start=2):
        again = stream_of(AugmentationConfig()).batch(step)["unlabelled"]
        assert all(torch.equal(batch["unlabelled"][name], again[name]) for name in again)


def test_both_views_show_the_same_place_and_only_the_strong_one_is_changed(stream_of):
    strong = PLAIN.model_copy(update={"brightness_p": 1.0, "rotation_p": 1.0})
    views = stream_of(strong).batch(0)["unlabelled"]
    ratio = views["strong"] / views["weak"]
    assert not torch.equal(views["strong"], views["weak"])
    for patch in ratio:
        inside = patch[torch.isfinite(patch)]
        torch.testing.assert_close(inside, inside.median().expand_as(inside), rtol=1e-3, atol=1e-3)


def test_the_directions_take_turns(stream_of):
    stream = stream_of(paste=0.5)
    shares = [[float(p.float().mean()) for p in stream.batch(step)["unlabelled"]["paste"]] for step in (0, 1)]
    assert shares == [[pytest.approx(0.125), pytest.approx(0.875)], [pytest.approx(0.875), pytest.approx(0.125)]]
    whole = stream_of(paste=0.0)
    turns = [[bool(p.all()) for p in whole.batch(step)["unlabelled"]["paste"]] for step in (0, 1)]
    assert turns == [[False, True], [True, False]]


def test_stored_weights_count_from_zero_to_one(stream_of, case_of):
    class Weighted:
        def __init__(self, case):
            self.case, self.shape, self.foreground = case, case.shape, case.foreground

        def read(self, start, size):
            image, target, _ = self.case.read(start, size)
            return image, target, (target * 100).astype(np.uint8)

    other = stream_of(PLAIN.model_copy(update={"rotation_p": 1.0}), unlabelled=[Weighted(case_of(seed=5))])
    batch = other.batch(0)["unlabelled"]
    torch.testing.assert_close(batch["weight"], batch["target"] * 100 / 255)
    assert batch["target"].unique().tolist() == [0, 1, 2]


def test_two_dimensional_patches_lose_the_slice_axis(stream_of, plan_of):
    plan = plan_of((16, 12, 1), dimensions=2)
    views = stream_of(plan=plan).batch(0)["unlabelled"]
    assert views["weak"].shape == (2, 1, 16, 12)
    assert views["paste"].shape == views["target"].shape == views["weight"].shape == (2, 16, 12)


def test_no_unlabelled_scan_is_one_sentence(stream_of):
    with pytest.raises(DatasetError, match="no unlabelled case to mix"):
        stream_of(unlabelled=[])
