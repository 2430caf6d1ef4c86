"""Messages between processes: what comes out is what went in, whatever files are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.batch.job import Job, find_picture, name_of
from medseg.batch.record import read_record
from medseg.batch.summary import CaseResult
from medseg.batch.task import Facts, Progress, Refusal, Task, from_line, to_line
from medseg.batch.worker import Worker
from medseg.config import InferenceConfig, IngestConfig, SegmentConfig
from medseg.errors import ConfigError, ReasonCode
from medseg.quality.overlay import overlay_png
from medseg.volume import Case, Source

from .batch_fakes import LABELS


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name))
def test_any_bytes_may_be_a_files_name(name):
    source = Source("dicom", (Path(os.fsdecode(name)), Path("b")), IngestConfig(missing_slice="repair"))
    task = Task(Case("case", (source,), patient="p", flags=(ReasonCode.DUPLICATE,)), size=7, attempt=2)
    line = to_line(task)
    assert line.count(b"\n") == 1
    assert from_line(line) == task


@pytest.mark.parametrize(
    "message",
    [
        Facts("liver", "digest", 2, LABELS, None, InferenceConfig(flips=True), "cuda:0", "NVIDIA A100", 4, "s"),
        Progress("a", "infer"),
        CaseResult("a", "rejected", "TRUNCATED", "a: it ends too early"),
        Refusal("ModelError", "no such model\nfolder"),
    ],
)
def test_messages_survive(message):
    assert from_line(to_line(message)) == message


def test_a_record_survives(predictor, make_cases, tmp_path):
    (result,) = Worker(predictor, tmp_path / "cases", "m", "s").run(make_cases(-1))
    assert result.record == read_record(tmp_path / "cases" / "case_0")
    assert from_line(to_line(result)) == result


def test_a_job_survives():
    job = Job(model=Path(os.fsdecode(b"\xff")), folder=Path("b"), config=SegmentConfig(formats=("seg-nrrd",)), number=3)
    assert Job.from_line(job.to_line()) == job


def test_pictures_are_found_by_name():
    name = name_of(overlay_png)
    assert name == "medseg.quality.overlay:overlay_png"
    assert find_picture(name) is overlay_png
    assert find_picture(None) is None
    for wrong in ("medseg.quality.overlay:nothing", "no_such_module:draw", "a b"):
        with pytest.raises(ConfigError, match="module:function"):
            find_picture(wrong)
