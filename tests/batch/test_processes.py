"""The supervisor: whatever a case does to its worker process, the others are done and nothing is left running.

The worker processes are real; what they run instead of a network, and how cases misbehave, is in ``faulty.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from medseg.batch.engine import open_engine
from medseg.batch.job import Job
from medseg.batch.processes import Processes
from medseg.batch.record import read_record
from medseg.batch.segment_folder import segment_folder
from medseg.batch.task import Task
from medseg.config import SegmentConfig
from medseg.errors import ConfigError, ModelError, WorkerError
from medseg.volume import Case, Source

from .conftest import write_scan


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Return a function that makes a job for worker processes that misbehave."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def make(model: str = "model", **config):
        return Job(model=Path(model), folder=tmp_path / "out" / "cases", config=SegmentConfig(**config))

    (tmp_path / "out").mkdir()
    return make


@pytest.fixture
def tasks(tmp_path):
    """Return a function that writes a scan for each name."""

    def make(*names: str) -> list[Task]:
        scans = [write_scan(tmp_path / "scans" / f"{name}.nii.gz", -1) for name in names]
        return [Task(Case(name, (Source("nifti", (scan,)),)), 300) for name, scan in zip(names, scans, strict=True)]

    return make


def run(job: Job, tasks: list[Task]):
    with open_engine(job, "faulty:draw") as engine:
        engine.facts()
        results = {result.case: result for result in engine.run(tasks)}
    assert not children()
    assert not list(job.folder.glob(".*"))  # nothing half-written is left
    return results


def children() -> list[int]:
    """Return the numbers of this process's children that still run."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(number) for number in listed if "python" in Path(f"/proc/{number}/cmdline").read_text()]


@pytest.mark.parametrize(("device", "count"), [("cpu", 3), ("cuda:1", 5)])
def test_a_worker_has_a_case_for_each_of_its_threads(tasks, device, count):
    sent = []
    crew = SimpleNamespace(children=[SimpleNamespace(send=sent.append)])
    engine = Processes(crew)
    engine._posts[0].facts = SimpleNamespace(device=device)
    engine._cases.extend(tasks(*"abcdefgh"))
    engine._give(engine._posts[0])
    engine._give(engine._posts[0])
    assert len(sent) == count


def test_a_crash_costs_the_culprit_alone(job, tasks):
    names = ["a", "kill_read", "b", "segv_infer_once", "c", "exit_write_once", "noisy_infer", "d"]
    results = run(job(), tasks(*names))
    assert sorted(results) == sorted(names)
    culprit = results.pop("kill_read")
    assert (culprit.status, culprit.reason) == ("crashed", "SIGKILL")
    assert "(SIGKILL) while reading it; the system does that when memory runs out" in culprit.message
    for name, result in results.items():
        assert result.is_done, name
        assert read_record(job().folder / name) == result.record
        assert not result.was_done
    assert results["segv_infer_once"].record.attempts == results["exit_write_once"].record.attempts == 2
    assert {path.name for path in job().folder.iterdir()} == set(results)


def test_a_case_that_hangs_is_ended_and_the_others_done(job, tasks):
    began = time.monotonic()
    results = run(job(case_timeout=3), tasks("a", "hang_infer", "b"))
    assert {name: result.status for name, result in results.items()} == {
        "a": "done",
        "b": "done",
        "hang_infer": "timeout",
    }
    assert results["hang_infer"].reason == "TIMEOUT"
    assert "not done after 3 s of work, ended while segmenting it" in results["hang_infer"].message
    assert time.monotonic() - began < 30


def test_memory_that_others_took_is_tried_again_alone(job, tasks):
    results = run(job(), tasks("a", "oom_infer_once", "oom_read", "b"))
    assert results["oom_infer_once"].record.attempts == 2
    assert (results["oom_read"].status, results["oom_read"].reason) == ("failed", "OUT_OF_MEMORY")
    assert results["a"].status == results["b"].status == "done"


def test_a_lost_gpu_costs_the_culprit_alone(job, tasks):
    names = ["a", "lost_infer", "b", "lost_infer_once", "c", "d"]
    results = run(job(), tasks(*names))
    culprit = results.pop("lost_infer")
    assert (culprit.status, culprit.reason) == ("failed", "GPU_LOST")
    assert "the GPU gave up on it" in culprit.message
    assert {name: result.status for name, result in results.items()} == dict.fromkeys(results, "done")
    assert results["lost_infer_once"].record.attempts == 2


def test_several_workers_share_the_cases(job, tasks):
    names = [f"slow_infer_{number}" for number in range(12)]
    results = run(job(workers=2), tasks(*names))
    assert [result.status for result in results.values()] == ["done"] * 12
    assert len((job().folder.parent / "workers").read_text().split()) == 2


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("broken", ModelError, "no model folder"),
        (
            "deadly",
            WorkerError,
            "3 times before it could work within 0.7 GB of memory, which may be too little.*EXIT_9",
        ),
        ("greedy", WorkerError, "can't work within 0.7 GB of memory: MemoryError in faulty.py, line"),
    ],
)
def test_a_worker_that_can_not_start_ends_the_run(job, tasks, model, error, words):
    with pytest.raises(error, match=words):
        run(job(model, memory_limit_gb=0.7), tasks("a"))
    assert not children()


def test_a_model_that_changes_meanwhile_ends_the_run(job, tasks):
    with pytest.raises(ModelError, match="changed while the batch ran"):
        run(job("changing"), tasks("a", "segv_infer_once", "b"))
    assert not children()


def test_no_process_is_left_when_the_caller_stops(job, tasks):
    def stop():
        with open_engine(job(), "faulty:draw") as engine:
            engine.facts()
            next(engine.run(tasks("a", "hang_infer")))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert not children()


def test_a_picture_that_no_process_can_import_is_refused(job):
    with pytest.raises(ConfigError, match="can't import"), open_engine(job(), lambda *_: None):
        pass


def test_paths_may_be_text(tasks, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    tasks("a")
    summary = segment_folder(str(tmp_path / "scans"), "m", str(tmp_path / "out"), picture="faulty:draw")
    assert [(result.case, result.status) for result in summary.results] == [("a", "done")]
    assert (tmp_path / "out" / "cases" / "a" / "mask.nii.gz").is_file()


def test_workers_end_when_their_supervisor_is_killed(job, tasks, tmp_path):
    (task,) = tasks("hang_read")
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from medseg.batch.segment_folder import segment_folder\n"
        f"segment_folder(Path({str(tmp_path / 'scans')!r}), Path('m'), Path({str(tmp_path / 'o')!r}), "
        "picture='faulty:draw')"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    try:
        tried = tmp_path / "o" / "hang_read.tried"
        wait_until(tried.exists)
        (worker,) = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    assert task.case.id == "hang_read"


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
