"""From a folder of scans to a table: what is left out is said, and inputs are never written to."""

from __future__ import annotations

import csv
import shutil
import stat

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.errors import ConfigError, DatasetError, ModelError, OutputError
from medseg.geometry import Grid
from medseg.io.nifti import write_volume
from medseg.io.scan import read_case
from medseg.labels import LabelMap
from medseg.networks.build import build_network
from medseg.networks.model import Model, load_model, save_model
from medseg.plan import Plan
from medseg.selection.worklist import SelectionOptions, rank_scans
from medseg.volume import Volume


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write_scan(path, seed, shape=(12, 10, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    write_volume(path, Volume(array, Grid(shape, np.eye(4))))


@pytest.fixture
def scans(tmp_path):
    for seed in range(6):
        write_scan(tmp_path / f"scans/case_{seed}.nii.gz", seed)
    return tmp_path / "scans"


@pytest.fixture
def saved(model, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "model"
    network = build_network(model.plan, model.labels.outputs)
    save_model(Model((network,), model.plan, model.labels, provenance={"training_cases": ["case_0"]}), folder)
    return folder


def table(output):
    return list(csv.DictReader((output / "next.csv").read_text().splitlines()))


def test_with_a_model(scans, saved, tmp_path):
    before = {path: path.read_bytes() for path in scans.iterdir()}
    seen = []
    worklist = rank_scans(
        scans, tmp_path / "out", saved, SelectionOptions(count=3), lambda *progress: seen.append(progress)
    )
    rows = table(tmp_path / "out")
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["case"] for row in rows] == [item.case for item in worklist.ranked]
    assert all(0 < float(row["score"]) <= 1 and "doubt" in row["why"] for row in rows)
    assert worklist.available == 5
    assert worklist.left_out == (("case_0", "case_0: the model learnt from a scan of this name"),)
    assert seen[-1] == (6, 6)
    assert {path: path.read_bytes() for path in scans.iterdir()} == before
    sources = tmp_path / "out/sources.csv"
    assert stat.S_IMODE(sources.stat().st_mode) == 0o600
    assert {row["source"] for row in csv.DictReader(sources.read_text().splitlines())} == {
        f"{item.case}.nii.gz" for item in worklist.ranked
    }


def test_the_same_command_chooses_the_same(scans, saved, tmp_path):
    first, again = (rank_scans(scans, tmp_path / name, saved, SelectionOptions(count=4)) for name in "ab")
    assert first == again


def test_without_a_model_the_odd_scan_comes_early_and_labelled_ones_never(scans, tmp_path):
    write_scan(scans / "odd.nii.gz", 9, (30, 10, 8))
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    shutil.copy(scans / "case_3.nii.gz", labelled / "other_name.nii.gz")
    worklist = rank_scans(scans, tmp_path / "out", options=SelectionOptions(count=2, labelled=labelled))
    assert worklist.ranked[0].case == "odd"
    assert worklist.available == 6
    assert ("case_3", "case_3: the same image as other_name") in worklist.left_out


def test_a_labelled_scan_is_known_by_its_voxels(scans, tmp_path):
    """As medseg convert and other programs write them: uncompressed, or with another header."""
    (tmp_path / "labelled").mkdir()
    for seed in (1, 3):
        image = nib.load(scans / f"case_{seed}.nii.gz")
        image.header["descrip"] = b"written by another program"
        nib.save(image, tmp_path / f"labelled/known_{seed}.nii{'.gz' if seed == 1 else ''}")
    worklist = rank_scans(scans, tmp_path / "out", options=SelectionOptions(labelled=tmp_path / "labelled"))
    assert worklist.left_out == tuple((f"case_{n}", f"case_{n}: the same image as known_{n}") for n in (1, 3))


def test_masks_in_place_of_the_labelled_scans_are_refused(scans, saved, tmp_path):
    """As in the folder of a whole dataset, or in that of its masks."""
    folder = tmp_path / "dataset"
    for kind, values in (("images", np.random.default_rng(0).normal(size=(12, 10, 8))), ("labels", np.eye(12)[:, :10])):
        (folder / kind).mkdir(parents=True)
        array = np.broadcast_to(np.reshape(values, (12, 10, -1)), (12, 10, 8)).astype(np.float32)
        write_volume(folder / kind / "a.nii.gz", Volume(array[None], Grid((12, 10, 8), np.eye(4))))
    looked_at = []
    for labelled in (folder, folder / "labels"):
        options = SelectionOptions(labelled=labelled)
        with pytest.raises(DatasetError, match=r"1 of the \d files .* look like masks: .*give the folder of the scans"):
            rank_scans(scans, tmp_path / "out", saved, options, lambda *progress: looked_at.append(progress))
    assert looked_at == []
    assert rank_scans(scans, tmp_path / "out", saved, SelectionOptions(labelled=folder / "images")).available == 5


def test_a_labelled_scan_that_memory_can_not_hold_is_left_out(scans, tmp_path, monkeypatch):
    def read(case):
        if case.id == "huge":
            raise MemoryError
        return read_case(case)

    monkeypatch.setattr("medseg.selection.worklist.read_case", read)
    write_scan(tmp_path / "labelled" / "huge.nii.gz", 7)
    worklist = rank_scans(scans, tmp_path / "out", options=SelectionOptions(labelled=tmp_path / "labelled"))
    assert worklist.available == 6
    assert [case for case, _ in worklist.left_out] == ["huge"]


def test_copies_broken_scans_and_too_many_wanted(scans, tmp_path):
    shutil.copy(scans / "case_2.nii.gz", scans / "copy.nii.gz")
    (scans / "broken.nii.gz").write_bytes((scans / "case_1.nii.gz").read_bytes()[:-400])
    worklist = rank_scans(scans, tmp_path / "out", options=SelectionOptions(count=50))
    assert sorted(item.case for item in worklist.ranked) == [f"case_{seed}" for seed in range(6)]
    reasons = dict(worklist.left_out)
    assert reasons["copy"] == "copy: the same image as case_2"
    assert "broken" in reasons


def test_pseudonyms_hide_file_names(scans, saved, tmp_path):
    (scans / "broken.nii.gz").write_bytes((scans / "case_1.nii.gz").read_bytes()[:-400])
    worklist = rank_scans(scans, tmp_path / "out", saved, SelectionOptions(count=9, pseudonymize=True))
    text = (tmp_path / "out/next.csv").read_text() + str(worklist)
    assert worklist.available == 5  # a scan that was learnt from is known by its file's name
    assert "case-" in text
    assert "case_1" not in text
    assert "broken" not in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (SelectionOptions(count=0), ConfigError, "at least 1, not 0"),
        (SelectionOptions(strategy="foreground-random"), ConfigError, "give --model"),
    ],
)
def test_impossible_wishes(scans, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        rank_scans(scans, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_folders_that_can_t_be_used(scans, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no unlabelled scan to choose from"):
        rank_scans(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DatasetError, match="the same image as"):
        rank_scans(scans, tmp_path / "out", options=SelectionOptions(labelled=scans))
    with pytest.raises(OutputError, match="inside the scan folder"):
        rank_scans(scans, scans / "out")
    with pytest.raises(ModelError, match="no such model folder"):
        rank_scans(scans, tmp_path / "out", tmp_path / "missing")
    assert not (tmp_path / "out").exists()


def test_a_place_that_can_t_be_written_is_refused_before_any_scan_is_looked_at(scans, tmp_path):
    (tmp_path / "file").touch()
    looked_at = []
    with pytest.raises(OutputError, match="is a file, not a folder"):
        rank_scans(scans, tmp_path / "file" / "out", watcher=lambda *progress: looked_at.append(progress))
    assert looked_at == []


def test_scans_of_other_channels_are_left_out(scans, saved, tmp_path):
    labels = LabelMap.parse({"liver": 1})
    values = {"channels": ("t1", "t2"), "normalisation": ({"kind": "zscore"},) * 2}
    plan = Plan.model_validate({**load_model(saved).plan.model_dump(), **values})
    save_model(Model((build_network(plan, 2),), plan, labels), tmp_path / "two")
    with pytest.raises(DatasetError, match="channel"):
        rank_scans(scans, tmp_path / "out", tmp_path / "two")
