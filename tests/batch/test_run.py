"""A run, whichever engine segments: what it writes down, and when it gives up."""

from __future__ import annotations

import csv
import json
import re

import pytest

from medseg.batch.run import Request, run_batch
from medseg.batch.summary import CaseResult, Failure
from medseg.batch.task import Facts
from medseg.batch.worker import Worker
from medseg.config import InferenceConfig, SegmentConfig
from medseg.errors import OutputError

from .batch_fakes import LABELS
from .conftest import write_scan


class FakeEngine:
    """Segments in this process, but for the cases whose end is given."""

    def __init__(self, worker: Worker, digest: str = "m", **ends: CaseResult) -> None:
        self.worker, self.digest, self.ends, self.given = worker, digest, ends, []

    def facts(self):
        return Facts("fake", self.digest, 1, LABELS, None, InferenceConfig(), "cpu", "", 0, "s")

    def run(self, tasks):
        for task in tasks:
            self.given.append(task)
            end = self.ends.get(task.case.id)
            yield from [end] if end else self.worker.run([task])


@pytest.fixture
def request_of(tmp_path):
    """Three scans, and what is to be done with them."""
    for name in ("a", "b", "c"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", -1)
    return Request(tmp_path / "scans", tmp_path / "out", SegmentConfig())


@pytest.fixture
def worker(predictor, tmp_path):
    return Worker(predictor, tmp_path / "out" / "cases", "m", "s")


def lines(request):
    return [json.loads(line) for line in (request.output / "audit.jsonl").read_text().splitlines()]


def test_tables_and_the_log_say_what_became_of_each_case(request_of, worker):
    (request_of.scans / "cut.nii.gz").write_bytes(b"nothing")
    engine = FakeEngine(worker, b=CaseResult("b", "crashed", "SIGSEGV", "b: it crashed"))
    told = []
    summary = run_batch(engine, request_of, lambda result, ended, total: told.append((result.case, ended, total)))
    assert told == [("a", 2, 4), ("b", 3, 4), ("c", 4, 4)]
    assert summary.exit_code == 1
    table = (request_of.output / "cases.csv").read_text(encoding="utf-8").splitlines()
    rows = {row["case"]: row for row in csv.DictReader(table)}
    assert {case: (row["status"], row["reason"]) for case, row in rows.items()} == {
        "a": ("done", ""), "b": ("crashed", "SIGSEGV"), "c": ("done", ""), "cut": ("rejected", "TRUNCATED"),
    }  # fmt: skip
    counts = json.loads((request_of.output / "run.json").read_text())["cases"]
    assert counts == {"done": 2, "done_with_flags": 0, "rejected": 1, "failed": 0, "crashed": 1, "timeout": 0}
    first, *cases, last = lines(request_of)
    assert (first["event"], first["model_digest"], first["cases"]) == ("Application Start", "m", 4)
    assert [(line["case"], line["status"], line["outcome"]) for line in cases] == [
        ("cut", "rejected", 4), ("a", "done", 0), ("b", "crashed", 4), ("c", "done", 0),
    ]  # fmt: skip
    assert (last["event"], last["outcome"]) == ("Application Stop", 0)


def test_the_log_is_only_added_to_and_names_no_path(request_of, worker):
    run_batch(FakeEngine(worker), request_of)
    before = (request_of.output / "audit.jsonl").read_text()
    run_batch(FakeEngine(worker), request_of)
    after = (request_of.output / "audit.jsonl").read_text()
    assert after.startswith(before)
    assert [line["event"] for line in lines(request_of)].count("Result Verified") == 3
    assert str(request_of.scans) not in after


def test_a_result_whose_line_a_killed_run_did_not_write_is_in_the_log_of_the_next(request_of, worker):
    run_batch(FakeEngine(worker), request_of)
    log = request_of.output / "audit.jsonl"
    kept = [line for line in log.read_text().splitlines(keepends=True) if '"case": "b"' not in line]
    log.write_text("".join(kept) + '{"event": "Result Created", "ca')
    run_batch(FakeEngine(worker), request_of)
    created = re.findall(r'"Result Created".*"case": "(.)"', log.read_text())
    assert created == ["a", "c", "b"]


def test_a_full_disk_ends_the_run_at_once(request_of, worker, monkeypatch):
    looks = iter([None, OutputError("can't write there: the disk is full; free some space")])

    def no_space(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if error := next(looks):
            raise error

    monkeypatch.setattr("medseg.batch.run.check_writable", no_space)
    engine = FakeEngine(worker, a=CaseResult("a", "failed", Failure.OUTPUT, "can't write"))
    with pytest.raises(OutputError, match="disk is full"):
        run_batch(engine, request_of)
    assert [task.case.id for task in engine.given] == ["a"]
    assert (lines(request_of)[-1]["outcome"], lines(request_of)[-1]["ended_by"]) == (8, "OutputError")


def test_a_failed_write_goes_on_where_others_can_be_written(request_of, worker):
    engine = FakeEngine(worker, a=CaseResult("a", "failed", Failure.OUTPUT, "can't write"))
    assert [result.status for result in run_batch(engine, request_of).results] == ["failed", "done", "done"]


def test_the_size_of_a_scan_in_memory_goes_with_it(request_of, worker):
    engine = FakeEngine(worker)
    run_batch(engine, request_of)
    assert {task.size for task in engine.given} == {5 * 4 * 3 * (4 + 1)}  # float32 and a byte of mask
