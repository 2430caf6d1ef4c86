"""``medseg pretrain`` and ``medseg train --init``: weights that start a training and segment nothing."""

from __future__ import annotations

import json

import pytest

from medseg.io.nifti import write_mask
from medseg.labels import LabelMap
from medseg.volume import Mask, Source

LABELS = LabelMap.parse({"bright": 1})

SHORT = {
    "dataset.labels": "{bright: 1}",
    "dataset.modality": "mr",
    "plan.spacing": "[2, 2, 2]",
    "plan.patch": "[16, 16, 16]",
    "network.features": 4,
    "pretraining.steps": 2,
    "training.steps": 2,
    "training.precision": "float32",
}
OVERRIDES = [word for field, value in SHORT.items() for word in ("--set", f"{field}={value}")]


@pytest.fixture
def dataset(tmp_path, scans):
    """One labelled and two unlabelled scans."""
    from medseg.io.nifti import read_nifti

    folder = tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, path in enumerate(sorted(scans.rglob("*.nii*"))):
        ending = path.name.partition(".")[2]
        path.rename(folder / "images" / f"case_{number}.{ending}")
    image = folder / "images/case_0.nii.gz"
    volume = read_nifti(image)
    mask = Mask((volume.array[0] > 50).astype("uint8"), volume.grid)
    write_mask(folder / "labels/case_0.nii.gz", mask, Source("nifti", (image,)), LABELS)
    return folder


def test_pre_trained_weights_start_a_training_and_segment_nothing(medseg, dataset, tmp_path):
    run = tmp_path / "run"
    done = medseg("pretrain", "--data", dataset, "--output", run, *OVERRIDES)
    assert done.exit_code == 0, done.output
    assert "(3 scans)" in done.stdout
    assert "variance" in done.stdout
    assert f"medseg train --init {run / 'pretrained'}" in done.stdout

    refused = medseg("segment", dataset / "images", "--model", run / "pretrained", "--output", tmp_path / "results")
    assert refused.exit_code == 2
    assert "know no structure yet" in refused.stderr

    trained = medseg(
        "train", "--data", dataset, "--output", tmp_path / "next", "--init", run / "pretrained", *OVERRIDES
    )
    assert trained.exit_code == 0
    assert (tmp_path / "next/model/model.json").is_file()


def test_both_in_one_command(medseg, dataset, tmp_path):
    done = medseg("train", "--data", dataset, "--output", tmp_path / "run", "--init", "pretrain", *OVERRIDES)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run/pretrained/pretrained.json").is_file()
    assert (tmp_path / "run/model/model.json").is_file()
    scans = json.loads((tmp_path / "run/pretrained/pretrained.json").read_text())["provenance"]["scans"]
    assert sorted(scans) == ["case_0", "case_1", "case_2"]
