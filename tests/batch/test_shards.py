"""Shards: each case is exactly one's, and together, whatever happens to one of them, they end as one run does."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.batch.listing import list_cases
from medseg.batch.run import Request, run_batch
from medseg.batch.shards import is_of, share_of, unite_shards
from medseg.batch.worker import Worker
from medseg.catalog.index import index_scans
from medseg.config import SegmentConfig, make_segment_config
from medseg.errors import ConfigError, OutputError
from medseg.io.files import _place

from .conftest import write_scan
from .test_resume import check_nothing_is_half_done, contents
from .test_run import FakeEngine

COUNT = 3
OF_MACHINES = {"started", "finished", "seconds", "memory_mb", "machine", "versions", "shards"}
OF_MACHINES |= {"runtime", "device", "device_name"}


@given(st.text(min_size=1), st.integers(1, 1000))
def test_each_case_is_exactly_one_shards(case, count):
    assert sum(is_of(case, (number, count)) for number in range(1, count + 1)) == 1


def test_shards_are_of_about_the_same_size():
    sizes = [sum(is_of(f"case_{case:04}", (number, 8)) for case in range(8000)) for number in range(1, 9)]
    assert all(abs(size - 1000) < 120 for size in sizes)  # four standard deviations


def test_the_same_cases_in_every_order_and_channels_together(tmp_path):
    for number in range(12):
        write_scan(tmp_path / f"scan_{number:02}_0000.nii.gz")
        write_scan(tmp_path / f"scan_{number:02}_0001.nii.gz")
    (tmp_path / "scan_03_0001.nii.gz").unlink()
    everything = list_cases(index_scans(tmp_path), channels=2)
    shares = [share_of(everything, (number, COUNT)) for number in range(1, COUNT + 1)]
    assert all(len(case.images) == 2 for share in shares for case in share.cases)
    assert sorted(case.id for share in shares for case in share.cases) == sorted(case.id for case in everything.cases)
    assert [result.case for share in shares for result in share.rejected] == ["scan_03"]
    assert sorted(name for share in shares for name in share.sources) == sorted(everything.sources)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/2/3", "1/0", "-1/3", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ConfigError, match="shard: .*is none; write the third of eight as 3/8"):
        make_segment_config(shard=text)


def test_a_shard_survives_its_way_to_a_worker():
    config = make_segment_config(shard="3/8")
    assert config.shard == (3, 8)
    assert SegmentConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a whole run, or a shard, in a process of its own."""
    for number in range(11):
        write_scan(tmp_path / "scans" / f"slow_infer_{number}.nii.gz", -1 - number)
    (tmp_path / "scans" / "cut.nii.gz").write_bytes(b"nothing")
    path = [str(Path(__file__).parent), *sys.path]

    def start(output: Path, shard: str | None = None) -> subprocess.Popen:
        code = (
            f"import sys; sys.path[:] = {path!r}\n"
            "from pathlib import Path\n"
            "from medseg.batch.segment_folder import segment_folder\n"
            "from medseg.config import SegmentConfig\n"
            f"scans, output = Path({str(tmp_path / 'scans')!r}), Path({str(output)!r})\n"
            f"segment_folder(scans, Path('m'), output, SegmentConfig(shard={shard!r}), picture='faulty:draw')"
        )
        return subprocess.Popen([sys.executable, "-c", code])

    return start


def test_shards_at_once_and_one_killed_end_as_one_run(start, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs = [start(parts, f"{number}/{COUNT}") for number in range(1, COUNT + 1)]
    unsharded = start(whole)
    killed = random.Random(seed := time.time_ns()).randrange(COUNT)
    while not list((parts / "cases").glob("[!.]*")):
        time.sleep(0.01)
    runs[killed].kill()
    assert [run.wait() for run in runs] == [-9 if number == killed else 0 for number in range(COUNT)], f"seed {seed}"
    check_nothing_is_half_done(parts)
    with pytest.raises(OutputError, match=f"not ended: --shard {killed + 1}/3; repeat"):
        unite_shards(parts)
    assert start(parts, f"{killed + 1}/{COUNT}").wait() == 0
    unite_shards(parts)
    assert unsharded.wait() == 0
    check_alike(parts, whole)
    done = {record["case"] for record in log_of(parts) if record["event"] == "Result Created"}
    assert done == {folder.name for folder in (parts / "cases").iterdir()}


def check_alike(parts: Path, whole: Path) -> None:
    """All of a united run is as in a whole one but times and machines; nothing hidden is left."""
    assert contents(parts) == contents(whole)
    for name in ("sources.csv", "labels.csv", "labels.ctbl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert stat.S_IMODE((parts / "sources.csv").stat().st_mode) == 0o600
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in parts.glob("shards/*/sources.csv"))
    records = [json.loads((output / "run.json").read_text()) for output in (parts, whole)]
    assert len(records[0]["shards"]) == COUNT
    parted, single = ({k: v for k, v in record.items() if k not in OF_MACHINES} for record in records)
    assert parted.pop("done_before") >= single.pop("done_before") == 0
    assert parted == single
    assert not [path for folder in (parts, parts / "cases", *parts.glob("shards/*")) for path in folder.glob(".*")]


def log_of(output: Path) -> list[dict]:
    return [json.loads(line) for path in output.glob("shards/*/audit.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture
def segment(tmp_path, predictor):
    """Return a function that does one shard in this process."""
    for name in "abcdefgh":
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", -1)

    def segment(shard: str | None, *, digest: str = "m", watcher=None, **wishes):
        worker = Worker(predictor, tmp_path / "out" / "cases", digest, "s")
        engine = FakeEngine(worker, digest=digest)
        request = Request(tmp_path / "scans", tmp_path / "out", SegmentConfig(shard=shard, **wishes))
        return run_batch(engine, request, watcher)

    return segment


def test_the_whole_command_afterwards_takes_over_what_shards_did(segment, tmp_path):
    for number in (1, 2):
        segment(f"{number}/2")
    summary = segment(None)
    assert [result.was_done for result in summary.results] == [True] * 8
    united = (tmp_path / "out" / "cases.csv").read_bytes()
    unite_shards(tmp_path / "out")
    assert (tmp_path / "out" / "cases.csv").read_bytes() == united


def test_a_shard_without_cases_is_done(segment, tmp_path):
    shutil.rmtree(tmp_path / "scans")
    write_scan(tmp_path / "scans" / "only.nii.gz", -1)
    summaries = [segment(f"{number}/2") for number in (1, 2)]
    assert sorted(len(summary.results) for summary in summaries) == [0, 1]
    assert [summary.exit_code for summary in summaries] == [0, 0]
    assert unite_shards(tmp_path / "out")["cases"]["done"] == 1


def test_shards_that_do_not_belong_together_are_refused(segment, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="has no shards"):
        unite_shards(out)
    segment("1/2")
    segment("2/2", digest="another")
    with pytest.raises(OutputError, match="2-of-2 and .*1-of-2 differ in model"):
        unite_shards(out)
    for wish in ({"formats": ("nifti", "rtstruct")}, {"ingest": {"missing_slice": "repair"}}, {"per_class": True}):
        segment("2/2", **wish)
        with pytest.raises(OutputError, match=r"differ in model, settings"):
            unite_shards(out)
    write_scan(tmp_path / "scans" / "late.nii.gz", -1)
    segment("2/2")
    with pytest.raises(OutputError, match="found different cases: scans came or went"):
        unite_shards(out)
    segment("1/2")
    assert unite_shards(out)["cases"]["done"] == 9
    segment("3/3")
    with pytest.raises(OutputError, match="has shards of 2 and of 3; delete"):
        unite_shards(out)


def test_a_shard_that_is_begun_again_has_not_ended(segment, tmp_path, monkeypatch):
    for number in (1, 2):
        segment(f"{number}/2")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.batch.run.list_cases", stop)
    with pytest.raises(KeyboardInterrupt):
        segment("2/2")
    with pytest.raises(OutputError, match="not ended: --shard 2/2"):
        unite_shards(tmp_path / "out")


def test_a_table_that_only_an_earlier_run_had_is_taken_away(segment, tmp_path):
    segment("1/1")
    (tmp_path / "out" / "selection.csv").write_text("study,rank\n")
    unite_shards(tmp_path / "out")
    assert not (tmp_path / "out" / "selection.csv").exists()
    assert (tmp_path / "out" / "labels.csv").exists()


def test_a_damaged_record_of_a_shard_is_named(segment, tmp_path):
    segment("1/1")
    (tmp_path / "out" / "shards" / "1-of-1" / "run.json").write_text('{"shard": 3}')
    with pytest.raises(OutputError, match=r"1-of-1/run.json: not what medseg segment --shard writes"):
        unite_shards(tmp_path / "out")


def test_what_another_shard_is_writing_stays(segment, tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    try:
        busy = tmp_path / "out" / "cases" / f".tmp-{_place()}-{other.pid}-0123"
        far = tmp_path / "out" / "cases" / f".tmp-ffffffff-{os.getpid()}-4567"
        for folder in (busy, far):
            folder.mkdir(parents=True)
        segment("1/2")
        assert busy.exists()
        assert far.exists()
    finally:
        other.kill()
        other.wait()
    segment("2/2")
    assert not busy.exists()
    assert far.exists()


def test_what_an_orphaned_worker_leaves_while_another_run_goes_on_is_taken_away(segment, tmp_path):
    with subprocess.Popen(["true"]) as orphan:
        pass
    left = tmp_path / "out" / "cases" / f".tmp-{_place()}-{orphan.pid}-0123"

    def dies_now(*_):
        left.mkdir(exist_ok=True)

    segment(None, watcher=dies_now)
    assert not left.exists()
