"""The cache never serves what is stale, broken or half-written, and reads only what is asked for."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from medseg.errors import CacheError, LabelError, OutputError, ScanError
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.plan import ChannelNormalisation
from medseg.preprocessing import cache as cache_module
from medseg.preprocessing.cache import FOREGROUND_LIMIT, Cache, entry_key, foreground_positions
from medseg.preprocessing.prepare import prepare_image, prepare_mask
from medseg.volume import Case, Volume


def entries(folder):
    return sorted(folder.rglob("*.safetensors"))


@pytest.fixture(params=[4.0, 0.0], ids=["memory", "disk"])
def ram_gb(request):
    return request.param


def test_a_case_comes_back_as_it_was_prepared(tmp_path, make_plan, labels, write_case, ram_gb):
    from medseg.io.scan import read_case

    case, plan = write_case("a"), make_plan(spacing=(1.5, 1, 0.8))
    (cached,) = Cache(tmp_path / "cache", ram_gb).prepare([case], plan, labels)
    volume, mask = read_case(case)
    prepared = prepare_image(volume, plan)
    image, target, _ = cached.read((0, 0, 0), cached.shape)
    np.testing.assert_allclose(image, prepared.image, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(target, prepare_mask(mask, labels, prepared.grid))
    assert image.dtype == np.float32
    assert cached.grid.matches(prepared.grid, tolerance_mm=0)
    assert cached.source_grid.matches(volume.grid, tolerance_mm=0)
    whole, whole_target = cached.whole()
    np.testing.assert_array_equal(whole.image, image)
    np.testing.assert_array_equal(whole_target, target)


def test_what_a_scan_is_of_comes_back(tmp_path, make_plan, labels, ram_gb):
    array = np.random.default_rng(0).normal(size=(1, 8, 9, 4)).astype(np.float32)
    source = write_series(Volume(array, Grid((8, 9, 4), np.diag([-1.0, -1.0, 2.0, 1.0]))), tmp_path / "series")
    for _ in range(2):  # made, and found
        (cached,) = Cache(tmp_path / "cache", ram_gb).prepare([Case("a", (source,))], make_plan(), labels)
        assert cached.whole()[0].modality == "CT"


@pytest.mark.parametrize("start", [(2, 1, 3), (-3, -2, 5), (8, 9, 7), (-9, -9, -9), (40, 0, 0)])
def test_a_box_is_padded_outside_the_scan(tmp_path, make_plan, labels, write_case, ram_gb, start):
    plan = make_plan(normalisation=(ChannelNormalisation(kind="clip", low=60, high=140, mean=100, std=20),))
    (case,) = Cache(tmp_path, ram_gb).prepare([write_case("a")], plan, labels)
    image, target, _ = case.read((0, 0, 0), case.shape)
    size = (6, 5, 4)
    margin = 60
    wide = np.pad(image, [(0, 0)] + [(margin, margin)] * 3, constant_values=-2)
    wide_target = np.pad(target, margin)
    box = tuple(slice(margin + s, margin + s + n) for s, n in zip(start, size, strict=True))
    patch = case.read(start, size)
    np.testing.assert_allclose(patch.image, wide[(slice(None), *box)], atol=1e-6)
    np.testing.assert_array_equal(patch.target, wide_target[box])


def test_what_is_read_belongs_to_the_caller(tmp_path, make_plan, labels, write_case, ram_gb):
    (case,) = Cache(tmp_path, ram_gb).prepare([write_case("a")], make_plan(), labels)
    before = case.read((0, 0, 0), case.shape)
    for box in [((0, 0, 0), case.shape), ((1, 1, 1), (4, 4, 4))]:
        patch = case.read(*box)
        patch.image[:], patch.target[:] = 99, 99
    after = case.read((0, 0, 0), case.shape)
    np.testing.assert_array_equal(after.image, before.image)
    np.testing.assert_array_equal(after.target, before.target)


def test_an_unlabelled_case_is_ignored_everywhere(tmp_path, make_plan, labels, write_case, ram_gb):
    (case,) = Cache(tmp_path, ram_gb).prepare([write_case("a", labelled=False)], make_plan(), labels)
    assert not case.labelled
    assert not case.foreground
    assert (case.read((-1, 0, 0), (5, 5, 5)).target == IGNORE_INDEX).all()


@pytest.fixture
def weighted_case(write_case, tmp_path):
    """A pseudo-label: weights 0 to 255 beside the mask, and 255 for voxels that nobody knows."""

    def write(weight: np.ndarray, name: str = "w", affine: np.ndarray | None = None):
        case = write_case(name)
        mask = nibabel.load(case.mask).get_fdata().astype(np.uint8)
        mask[mask == 9] = 255
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), case.mask)
        path = tmp_path / f"{name}_weight.nii.gz"
        nibabel.save(nibabel.Nifti1Image(weight, np.eye(4) if affine is None else affine), path)
        return replace(case, weight=path)

    return write


def test_weights_of_a_pseudo_label_come_with_its_patches(tmp_path, make_plan, labels, weighted_case, ram_gb):
    weight = np.random.default_rng(0).integers(0, 256, (12, 10, 8), dtype=np.uint8)
    (case,) = Cache(tmp_path / "c", ram_gb).prepare([weighted_case(weight)], make_plan(), labels)
    patch = case.read((1, 2, 3), (5, 6, 4))
    np.testing.assert_array_equal(patch.weight, weight[1:6, 2:8, 3:7])
    whole = case.read((0, 0, 0), case.shape)
    assert whole.target[0, 0, 0] == IGNORE_INDEX
    assert set(case.foreground) == {1, 2}
    patch.weight[:] = 7
    np.testing.assert_array_equal(case.read((1, 2, 3), (5, 6, 4)).weight, weight[1:6, 2:8, 3:7])
    outside = case.read((-2, 0, 0), (4, 4, 4))
    assert not outside.weight[:2].any()
    np.testing.assert_array_equal(outside.weight[2:], weight[:2, :4, :4])
    assert not case.read((40, 0, 0), (4, 4, 4)).weight.any()


def test_weights_are_interpolated_as_scipy_does(tmp_path, make_plan, labels, weighted_case):
    weight = np.random.default_rng(0).integers(0, 256, (12, 10, 8), dtype=np.uint8)
    (case,) = Cache(tmp_path / "c").prepare([weighted_case(weight)], make_plan(spacing=(1.5, 1, 0.8)), labels)
    steps = np.diag(case.grid.affine)[:3]
    points = [case.grid.affine[axis, 3] + steps[axis] * np.arange(n) for axis, n in enumerate(case.shape)]
    expected = map_coordinates(weight.astype(float), np.meshgrid(*points, indexing="ij"), order=1, mode="nearest")
    found = case.read((0, 0, 0), case.shape).weight
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_cases_without_weights_have_none(tmp_path, make_plan, labels, write_case):
    (case,) = Cache(tmp_path).prepare([write_case("a")], make_plan(), labels)
    assert case.read((-1, 0, 0), (4, 4, 4)).weight is None


def test_changed_weights_change_the_entry(make_plan, labels, weighted_case, write_case):
    ones, zeros = (np.full((12, 10, 8), value, np.uint8) for value in (1, 0))
    keys = {entry_key(weighted_case(weight), make_plan(), labels) for weight in (ones, zeros)}
    keys.add(entry_key(write_case("w"), make_plan(), labels))
    assert len(keys) == 3


def test_unsound_weights_are_refused(tmp_path, make_plan, labels, weighted_case):
    cache, plan, ones = Cache(tmp_path / "c"), make_plan(), np.ones((12, 10, 8), np.uint8)
    with pytest.raises(LabelError, match=r"^case big: .*big_weight.* reach 300"):
        cache.prepare([weighted_case(ones * np.uint16(300), "big")], plan, labels)
    with pytest.raises(ScanError, match=r"^case far: "):
        cache.prepare([weighted_case(ones, "far", np.diag([2.0, 1, 1, 1]))], plan, labels)
    with pytest.raises(LabelError, match=r"^case taken: .*255"):
        cache.prepare([weighted_case(ones, "taken")], plan, LabelMap.parse({"organ": 3, "tumour": 255}))


def test_foreground_positions_hold_their_class(tmp_path, make_plan, labels, write_case):
    (case,) = Cache(tmp_path).prepare([write_case("a")], make_plan(), labels)
    target = case.read((0, 0, 0), case.shape).target
    assert set(case.foreground) == {1, 2}
    for index, voxels in case.foreground.items():
        assert len(voxels) == (target == index).sum()
        assert (target[tuple(voxels.T)] == index).all()


def test_large_classes_are_subsampled_alike_each_time():
    target = np.ones((40, 40, 40), dtype=np.uint8)
    target[0, 0, :7] = 2
    positions, classes = foreground_positions(target)
    assert np.bincount(classes).tolist() == [0, FOREGROUND_LIMIT, 7]
    assert len(np.unique(positions, axis=0)) == len(positions)
    assert positions[classes == 1].mean(axis=0) == pytest.approx([19.5] * 3, abs=0.5)
    np.testing.assert_array_equal(positions, foreground_positions(target)[0])


def test_an_entry_is_made_once(tmp_path, make_plan, labels, write_case, monkeypatch):
    case = write_case("a")
    Cache(tmp_path / "c").prepare([case], make_plan(), labels)
    (path,) = entries(tmp_path / "c")
    made = path.stat().st_mtime_ns
    monkeypatch.setattr(cache_module, "read_case", None)  # reading again would fail
    Cache(tmp_path / "c").prepare([case], make_plan(), labels)
    assert path.stat().st_mtime_ns == made
    assert path.parent.name == path.stem[:2]


def test_nothing_stale_is_served(tmp_path, make_plan, labels, write_case, monkeypatch):
    """Image, mask, plan, labels and code each change the key; names and patch size don't."""
    case, plan = write_case("a"), make_plan()
    keys = [entry_key(case, plan, labels)]
    keys.append(entry_key(case, make_plan(spacing=(1, 1, 1.1)), labels))
    keys.append(entry_key(case, make_plan(normalisation=(ChannelNormalisation(kind="clip", high=9),)), labels))
    keys.append(entry_key(case, plan, LabelMap.parse({"organ": 3, "tumour": 8, "ignore": 9})))
    keys.append(entry_key(case, plan, LabelMap.parse({"organ": 3, "tumour": 7, "rest": 9})))
    keys.append(entry_key(write_case("a", labelled=False), plan, labels))
    keys.append(entry_key(write_case("a", seed=5), plan, labels))
    mask = nibabel.load(case.mask)
    nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), case.mask)
    keys.append(entry_key(case, plan, labels))
    monkeypatch.setattr(cache_module, "CACHE_VERSION", -1)
    keys.append(entry_key(case, plan, labels))
    assert len(set(keys)) == len(keys)
    other = make_plan(patch=(8, 8, 8), batch=5)
    assert entry_key(case, other, labels) == keys[-1]
    renamed = LabelMap.parse({"liver": 3, "lesion": 7, "ignore": 9})
    assert entry_key(case, plan, renamed) == keys[-1]


def test_a_changed_scan_is_prepared_again(tmp_path, make_plan, labels, write_case):
    cache, plan = Cache(tmp_path / "c"), make_plan()
    (old,) = cache.prepare([write_case("a", seed=1)], plan, labels)
    (new,) = cache.prepare([write_case("a", seed=2)], plan, labels)
    assert not np.array_equal(old.read((0, 0, 0), old.shape).image, new.read((0, 0, 0), new.shape).image)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped"])
def test_a_damaged_entry_is_made_again(tmp_path, make_plan, labels, write_case, damage, caplog):
    case, plan = write_case("a"), make_plan()
    (good,) = Cache(tmp_path / "c").prepare([case], plan, labels)
    (path,) = entries(tmp_path / "c")
    content = path.read_bytes()
    flipped = content[:-50] + bytes([content[-50] ^ 255]) + content[-49:]
    path.write_bytes({"truncated": content[:-20], "empty": b"", "text": b"no tensors" * 50, "flipped": flipped}[damage])
    with caplog.at_level(logging.WARNING):
        (again,) = Cache(tmp_path / "c").prepare([case], plan, labels)
    assert "case a is damaged" in caplog.text
    np.testing.assert_array_equal(again.read((0, 0, 0), again.shape).image, good.read((0, 0, 0), good.shape).image)
    assert path.read_bytes() == content


def test_an_entry_that_vanishes_while_reading_says_so(tmp_path, make_plan, labels, write_case):
    (case,) = Cache(tmp_path / "c", ram_gb=0).prepare([write_case("a")], make_plan(), labels)
    entries(tmp_path / "c")[0].unlink()
    with pytest.raises(CacheError, match="prepare again"):
        case.read((0, 0, 0), (2, 2, 2))


KILLED_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from medseg.preprocessing import cache
def slow(arrays, path, metadata):
    Path(path).write_bytes(b"half of it")
    print("writing", flush=True)
    time.sleep(60)
cache.save_file = slow
cache.write_entry(Path(sys.argv[1]), {"image": np.zeros(3)}, {})
"""


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path, make_plan, labels, write_case):
    case, plan = write_case("a"), make_plan()
    key = entry_key(case, plan, labels)
    target = tmp_path / "c" / key[:2] / f"{key}.safetensors"
    writer = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(target)], stdout=subprocess.PIPE)
    assert writer.stdout.readline().strip() == b"writing"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert not target.exists()
    (cached,) = Cache(tmp_path / "c").prepare([case], plan, labels)
    assert target.exists()
    assert cached.labelled


def test_several_caches_prepare_the_same_cases_at_once(tmp_path, make_plan, labels, write_case):
    cases, plan = [write_case(f"c{i}", seed=i) for i in range(4)], make_plan()
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(Cache(tmp_path / "c").prepare, cases * 2, plan, labels, 3) for _ in range(3)]
        results = [run.result() for run in runs]
    assert len(entries(tmp_path / "c")) == 4
    assert [case.id for case in results[0]] == ["c0", "c1", "c2", "c3"] * 2
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a.read((0, 0, 0), a.shape).image, b.read((0, 0, 0), b.shape).image)


def test_memory_is_used_up_to_its_limit(tmp_path, make_plan, labels, write_case):
    cases, plan = [write_case(f"c{i}", seed=i) for i in range(4)], make_plan()
    Cache(tmp_path / "c").prepare(cases, plan, labels)
    size = max(path.stat().st_size for path in entries(tmp_path / "c"))
    prepared = Cache(tmp_path / "c", ram_gb=2.5 * size / 1e9).prepare(cases, plan, labels)
    assert [type(case.store).__name__ for case in prepared] == ["Voxels", "Voxels", "VoxelFile", "VoxelFile"]


def test_a_read_from_memory_takes_microseconds(tmp_path, make_plan, labels, write_case):
    (case,) = Cache(tmp_path / "c").prepare([write_case("a", shape=(36, 50, 35))], make_plan(), labels)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        case.read((0, 0, 0), (32, 48, 32))
        took.append(time.perf_counter() - began)
    assert min(took) < 2e-3  # 60 µs on a quiet machine


def test_errors_name_the_case(tmp_path, make_plan, labels, write_case):
    cache, plan = Cache(tmp_path / "c"), make_plan()
    two = make_plan(channels=("A", "B"), normalisation=(ChannelNormalisation(kind="zscore"),) * 2)
    with pytest.raises(ScanError, match=r"^case knee: the scan has 1 channel"):
        cache.prepare([write_case("knee")], two, labels)
    with pytest.raises(LabelError, match=r"^case knee: the mask holds values"):
        cache.prepare([write_case("knee")], plan, LabelMap.parse({"organ": 3}))
    case = write_case("gone")
    case.images[0].files[0].unlink()
    with pytest.raises(ScanError, match=r"^case gone: .*gone.nii.gz: can't be read"):
        cache.prepare([case], plan, labels)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_sentence(tmp_path, make_plan, labels, write_case):
    case = write_case("a")
    (tmp_path / "c").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permission"):
        Cache(tmp_path / "c").prepare([case], make_plan(), labels)


def test_a_file_in_the_folders_place_is_one_sentence(tmp_path, make_plan, labels, write_case):
    (tmp_path / "c").write_text("not a folder")
    with pytest.raises(OutputError, match=r"not a folder|a file"):
        Cache(tmp_path / "c").prepare([write_case("a")], make_plan(), labels)
