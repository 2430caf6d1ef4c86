"""Every hostile folder is read right to the voxel or refused with its reason: by default, repaired, and converted."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.batch.convert_folder import convert_folder
from medseg.catalog.index import index_scans
from medseg.config import BatchConfig, IngestConfig
from medseg.errors import ScanError
from medseg.io.scan import read_scan

sys.path.append(str(Path(__file__).parents[2] / "sample_data" / "hostile"))
from make_hostile import PITFALLS
from pitfalls.judge import Placed, judge

REPAIRABLE = [name for name, pitfall in PITFALLS.items() if pitfall.repair]
STUDIED = [name for name, pitfall in PITFALLS.items() if pitfall.studied]
LEAST_RIGHT = 33


def policy_for(name: str) -> IngestConfig:
    """Return the defaults, with the pitfall's own fault repaired where it can be."""
    code = PITFALLS[name].repair
    return IngestConfig.model_validate({code.lower(): "repair"} if code else {})


class Reading:
    """What indexing a folder and reading all that was accepted gave."""

    def __init__(self, folder: Path, policy: IngestConfig) -> None:
        catalog = index_scans(folder, key=folder.parent / "key", policy=policy)
        self.volumes, self.reasons, self.messages = [], set(), [entry.message for entry in catalog.entries]
        self.flags, self.repaired = set(), set()
        for entry in catalog.entries:
            if entry.source is None:
                self.reasons.add(entry.reason)
                continue
            try:
                volume = read_scan(entry.source)
            except ScanError as error:
                self.reasons.add(error.code)
                self.messages.append(str(error))
                continue
            self.volumes.append(Placed(volume.array[0], volume.grid.affine))
            self.flags |= {*entry.flags, *volume.flags}
            self.repaired |= {repair.code for repair in volume.repairs}
            assert volume.grid.shape == entry.shape


@pytest.mark.parametrize("name", PITFALLS)
def test_by_default(hostile, name):
    folder, truths = hostile(name)
    pitfall, reading = PITFALLS[name], Reading(folder, IngestConfig())
    if pitfall.expected == "right":
        assert judge(reading.volumes, truths).word == "right"
        assert set(pitfall.flags) <= reading.flags
    else:
        assert not reading.volumes
        assert pitfall.expected in reading.reasons
    assert not any("Phantom" in message or str(folder) in message for message in reading.messages)


@pytest.mark.parametrize("name", REPAIRABLE)
def test_repaired(hostile, name):
    folder, truths = hostile(name)
    reading = Reading(folder, policy_for(name))
    assert judge(reading.volumes, truths).word == "right"
    assert PITFALLS[name].repair in reading.flags & reading.repaired
    rejecting = IngestConfig.model_validate({PITFALLS[name].repair.lower(): "reject"})
    refused = Reading(folder, rejecting)
    assert not refused.volumes
    assert PITFALLS[name].repair in refused.reasons


@pytest.mark.parametrize("name", PITFALLS)
def test_converted(hostile, name, tmp_path):
    folder, truths = hostile(name)
    config = BatchConfig(key=folder.parent / "key", ingest=policy_for(name))
    summary = convert_folder(folder, tmp_path / "out", config)
    images = [nib.load(path) for path in sorted((tmp_path / "out").glob("*.nii.gz"))]
    verdict = judge([Placed(np.asarray(image.dataobj), image.affine) for image in images], truths)
    pitfall = PITFALLS[name]
    if pitfall.expected == "right" or pitfall.repair:
        assert verdict.word == "right"
        assert len(images) == sum(result.status == "done" for result in summary.results) == len(truths)
    else:
        assert not images
        reasons = {result.reason for result in summary.results} | set(summary.left_out)
        assert pitfall.expected in reasons


def test_most_of_what_was_studied_is_right(hostile):
    assert len(STUDIED) == 37
    verdicts = {}
    for name in STUDIED:
        folder, truths = hostile(name)
        verdicts[name] = judge(Reading(folder, policy_for(name)).volumes, truths).word
    assert set(verdicts.values()) <= {"right", "refused"}
    assert sum(word == "right" for word in verdicts.values()) >= LEAST_RIGHT


def test_folders_are_small_and_the_same_every_time(hostile, tmp_path):
    name = "segmentation_beside"  # holds what a library takes from the clock
    folder, _ = hostile(name)
    (tmp_path / name).mkdir()
    PITFALLS[name].write(tmp_path / name)
    for path in sorted(folder.rglob("*")):
        assert path.read_bytes() == (tmp_path / name / path.relative_to(folder)).read_bytes()
    size = sum(path.stat().st_size for path in folder.parent.rglob("*") if stat.S_ISREG(os.lstat(path).st_mode))
    assert size < 20e6


@pytest.mark.parametrize("change", ["shift", "scale", "flip", "cut", "swap"])
def test_the_judge_sees_what_is_wrong(hostile, change):
    folder, truths = hostile("oblique")
    placed = Reading(folder, IngestConfig()).volumes[0]
    values, affine = placed.values.copy(), placed.affine.copy()
    if change == "shift":
        affine[0, 3] += 1
    elif change == "scale":
        affine[:3, 2] *= 1.05
    elif change == "flip":
        values = values[:, ::-1]
    elif change == "cut":
        values = values[..., :-1]
    else:
        values[..., [2, 3]] = values[..., [3, 2]]
    assert judge([placed], truths).word == "right"
    assert judge([Placed(values, affine)], truths).word == ("part" if change == "cut" else "wrong")
    assert judge([placed, placed], truths).word == "part"
    assert judge([], truths).word == "refused"
