from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch

from medseg.config import AugmentationConfig, TrainingConfig
from medseg.data.batches import BatchStream, prefetch
from medseg.data.sampling import Randomness, foreground_start, random_start
from medseg.errors import DatasetError

STRONG = AugmentationConfig(
    rotation_p=0.5,
    scaling_p=0.5,
    elastic_p=0.3,
    noise_p=0.5,
    blur_p=0.5,
    contrast_p=0.5,
    gamma_p=0.5,
    low_resolution_p=0.5,
)


@pytest.fixture
def stream_of(plan_of, case_of):
    def make(augmentation=STRONG, cases=3, plan=None, seed=4, rank=0, world=1, **training):
        sources = [case_of(seed=i) for i in range(cases)] if isinstance(cases, int) else cases
        config = TrainingConfig(**training)
        return BatchStream(sources, plan or plan_of(), augmentation, config, Randomness(seed, rank, world))

    return make


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_has_the_promised_shapes_and_types(stream_of, plan_of, case_of):
    batch = stream_of(cases=[case_of(channels=2)], plan=plan_of((16, 8, 12), batch=3)).batch(0)
    assert batch["image"].shape == (3, 2, 16, 8, 12)
    assert batch["target"].shape == (3, 16, 8, 12)
    assert batch["image"].dtype == torch.float32
    assert batch["target"].dtype == torch.uint8


@pytest.mark.parametrize(("axis", "patch"), [(0, (1, 12, 16)), (1, (12, 1, 16)), (2, (12, 16, 1))])
def test_2d_batches_lack_the_slice_axis(stream_of, plan_of, axis, patch):
    batch = stream_of(plan=plan_of(patch, dimensions=2, slice_axis=axis)).batch(0)
    assert batch["image"].shape == (2, 1, 12, 16)
    assert batch["target"].shape == (2, 12, 16)


def test_batches_are_a_function_of_the_step(stream_of):
    stream, again = stream_of(), stream_of()
    in_order = [stream.batch(step) for step in range(6)]
    for step in (5, 0, 3, 3):
        assert_equal(again.batch(step), in_order[step])
    assert not torch.equal(in_order[0]["image"], in_order[1]["image"])


@pytest.mark.parametrize("other", [{"seed": 5}, {"rank": 1, "world": 2}])
def test_seeds_and_ranks_see_different_patches(stream_of, other):
    assert not torch.equal(stream_of().batch(0)["image"], stream_of(**other).batch(0)["image"])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_number_of_threads_changes_nothing(stream_of, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = list(prefetch(stream_of(), 2, 12, threads))
        with ThreadPoolExecutor(1) as later:
            assert [torch.get_num_threads(), later.submit(torch.get_num_threads).result()] == [2, 2]
    finally:
        torch.set_num_threads(before)
    reference = stream_of()
    assert len(batches) == 10
    for step, batch in enumerate(batches, start=2):
        assert_equal(batch, reference.batch(step))


def test_prefetching_nothing_yields_nothing(stream_of):
    assert list(prefetch(stream_of(), 5, 5, 2)) == []


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_is_raised_at_its_step(stream_of, monkeypatch, threads):
    stream, good = stream_of(), stream_of().batch

    def failing(step):
        if step == 3:
            raise OSError("the disk is gone")
        return good(step)

    monkeypatch.setattr(stream, "batch", failing)
    batches, seen = prefetch(stream, 0, 10, threads), []
    with pytest.raises(OSError, match="disk is gone"):
        seen.extend(batches)  # extend keeps what came before the error
    assert len(seen) == 3


def test_closing_early_leaves_no_thread_and_reads_ahead_a_bounded_number(stream_of, monkeypatch):
    stream, asked = stream_of(), []
    good = stream.batch
    monkeypatch.setattr(stream, "batch", lambda step: (asked.append(step), good(step))[1])
    batches = prefetch(stream, 0, 1000, 2)
    list(islice(batches, 3))
    batches.close()
    assert max(asked) <= 3 + 2 * 2
    assert not [t for t in threading.enumerate() if t.name.startswith("medseg-loader")]


def test_each_case_comes_once_a_round_in_changing_order(stream_of, plan_of):
    stream = stream_of(cases=5, plan=plan_of(batch=2))
    drawn = [stream.sampler._case(step, position) for step in range(25) for position in range(2)]
    rounds = [tuple(drawn[i : i + 5]) for i in range(0, 50, 5)]
    assert all(sorted(order) == list(range(5)) for order in rounds)
    assert len(set(rounds)) > 5


def test_ranks_share_the_rounds(stream_of, plan_of):
    ranks = [stream_of(cases=8, plan=plan_of(batch=2), rank=rank, world=2) for rank in (0, 1)]
    drawn = [stream.sampler._case(step, place) for step in range(2) for stream in ranks for place in range(2)]
    assert sorted(drawn) == list(range(8))


@pytest.mark.parametrize(
    ("batch", "share", "expected"),
    [(2, 1 / 3, 0.5), (9, 1 / 3, 1 / 3), (1, 1 / 3, 1 / 3), (2, 0.1, 0.1), (2, 0, 0), (2, 1, 1)],
)
def test_the_share_of_foreground_patches(stream_of, plan_of, batch, share, expected):
    stream = stream_of(plan=plan_of(batch=batch), foreground=share)
    wanted = [
        stream.sampler._wants_foreground(place, np.random.default_rng([step, place]))
        for step in range(1500)
        for place in range(batch)
    ]
    assert np.mean(wanted) == pytest.approx(expected, abs=0.04)


def test_the_last_patches_of_a_batch_hold_a_structure(stream_of, plan_of, array_case):
    target = np.zeros((60, 60, 60), np.uint8)
    target[50, 51, 52] = 3
    case = array_case(target[None].astype(np.float32), target)
    stream = stream_of(augmentation=None, cases=[case], plan=plan_of((8, 8, 8), batch=3))
    held = np.array([(stream.batch(step)["target"] == 3).flatten(1).any(1).numpy() for step in range(100)])
    assert held[:, 2].all()
    assert held[:, :2].mean() < 0.1


def test_rare_classes_are_drawn_as_often_as_common_ones(array_case):
    target = np.zeros((40, 40, 40), np.uint8)
    target[:20] = 1
    target[35, 35, 35] = 2
    case, rng = array_case(target[None].astype(np.float32), target), np.random.default_rng(0)
    starts = [foreground_start(case, (3, 3, 3), rng) for _ in range(1000)]
    assert np.mean([start == (34, 34, 34) for start in starts]) == pytest.approx(0.5, abs=0.05)


def test_ignored_voxels_and_absent_classes_are_no_foreground(array_case):
    empty = np.zeros((9, 9, 9), np.uint8)
    case = array_case(empty[None].astype(np.float32), empty)
    assert foreground_start(case, (3, 3, 3), np.random.default_rng(0)) is None


def test_a_case_without_foreground_gives_patches_all_the_same(stream_of, array_case):
    empty = np.zeros((30, 30, 30), np.uint8)
    stream = stream_of(cases=[array_case(empty[None].astype(np.float32), empty)], foreground=1.0)
    assert stream.batch(0)["target"].max() == 0


def test_random_patches_reach_every_place_and_stay_inside():
    rng = np.random.default_rng(0)
    starts = np.array([random_start((10, 6, 4), (8, 6, 9), rng) for _ in range(200)])
    assert set(starts[:, 0]) == {0, 1, 2}
    assert set(starts[:, 1]) == {0}
    assert set(starts[:, 2]) == {-5, -4, -3, -2, -1, 0}  # the whole scan, anywhere in the larger patch


def test_foreground_patches_stay_inside(case_of):
    case, rng = case_of((20, 20, 10)), np.random.default_rng(0)
    starts = np.array([foreground_start(case, (16, 16, 16), rng) for _ in range(100)])
    assert (starts >= (0, 0, -6)).all()
    assert (starts <= (4, 4, 0)).all()


def test_without_augmentation_patches_are_the_case_itself(stream_of, case_of, plan_of):
    case = case_of()
    stream = stream_of(augmentation=None, cases=[case], plan=plan_of(case.shape, batch=1))
    batch = stream.batch(7)
    assert np.array_equal(batch["image"][0], case.image)
    assert np.array_equal(batch["target"][0], case.target)


def test_no_cases_are_refused(stream_of):
    with pytest.raises(DatasetError, match="no labelled case"):
        stream_of(cases=0)


def test_a_rank_beyond_the_world_is_refused(stream_of):
    with pytest.raises(ValueError, match="rank 2"):
        stream_of(rank=2, world=2)
