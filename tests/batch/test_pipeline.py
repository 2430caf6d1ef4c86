"""Three stages at once: bounded by bytes, told of in time, and no case lost."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from medseg.batch.pipeline import AHEAD, Room, Stages, run_stages
from medseg.batch.summary import CaseResult
from medseg.batch.task import Progress, Task
from medseg.volume import Case


def tasks_of(*sizes: int) -> list[Task]:
    return [Task(Case(f"case_{number}", ()), size) for number, size in enumerate(sizes)]


class Recorder:
    """Stages that count the bytes under way; those in `ends` end in that stage.

    With `waits` the first case stays at the network until the next one is prepared.
    """

    def __init__(self, ends: dict[str, str] | None = None, waits: bool = False) -> None:
        self.next_is_ready = threading.Event()
        if not waits:
            self.next_is_ready.set()
        self.ends, self.held, self.most, self.lock, self.threads = ends or {}, 0, 0, threading.Lock(), {}
        self.prepared, self.most_prepared = 0, 0
        self.sizes: dict[str, int] = {}

    def step(self, name: str, case: str) -> CaseResult | None:
        self.threads.setdefault(name, set()).add(threading.current_thread().name)
        time.sleep(0.002)
        return self.end(case, "failed") if self.ends.get(case) == name else None

    def end(self, case: str, status: str) -> CaseResult:
        with self.lock:
            self.held -= self.sizes[case]
        return CaseResult(case, status)

    def read(self, task: Task):
        with self.lock:
            self.sizes[task.case.id] = task.size
            self.held += task.size
            self.most = max(self.most, self.held)
        return self.step("read", task.case.id) or task.case.id

    def prepare(self, case: str):
        with self.lock:
            self.prepared += 1
            self.most_prepared = max(self.most_prepared, self.prepared)
            if self.prepared > 1:
                self.next_is_ready.set()
        return self.step("prepare", case) or case

    def infer(self, case: str):
        self.next_is_ready.wait(30)
        inferred = self.step("infer", case) or case
        with self.lock:
            self.prepared -= 1
        return inferred

    def write(self, case: str):
        return self.step("write", case) or self.end(case, "done")

    @property
    def stages(self) -> Stages:
        return Stages(self.read, self.prepare, self.infer, self.write)


def test_memory_is_bounded_by_bytes_and_each_stage_has_its_thread():
    recorder = Recorder(waits=True)
    results = list(run_stages(recorder.stages, tasks_of(*[40] * 12), 100, lambda _: None))
    assert [result.case for result in results] == [f"case_{number}" for number in range(12)]
    assert recorder.most == 80
    assert recorder.most_prepared == 2  # one at the network, one waiting for it
    assert recorder.threads["infer"] == {threading.current_thread().name}
    assert recorder.threads["prepare"] == recorder.threads["read"]
    assert len(recorder.threads["read"] | recorder.threads["write"] | recorder.threads["infer"]) == 3


def test_a_scan_larger_than_the_room_goes_alone():
    recorder = Recorder()
    assert len(list(run_stages(recorder.stages, tasks_of(10, 500, 10), 100, lambda _: None))) == 3
    assert recorder.most == 500


def test_small_scans_are_bounded_by_number():
    recorder = Recorder()
    list(run_stages(recorder.stages, tasks_of(*[1] * 20), 10**9, lambda _: None))
    assert recorder.most <= AHEAD + 1


def test_several_threads_write_at_once():
    recorder, together = Recorder(), threading.Barrier(3)

    def write(item):
        together.wait(timeout=30)
        return recorder.stages.write(item)

    stages = replace(recorder.stages, write=write)
    assert len(list(run_stages(stages, tasks_of(*[1] * 6), 10**9, lambda _: None, writers=3))) == 6


@pytest.mark.parametrize("stage", ["read", "prepare", "infer", "write"])
def test_a_case_that_ends_early_gives_its_room_back(stage):
    recorder = Recorder({"case_0": stage, "case_1": stage})
    results = {r.case: r.status for r in run_stages(recorder.stages, tasks_of(*[100] * 4), 100, lambda _: None)}
    assert results == {"case_0": "failed", "case_1": "failed", "case_2": "done", "case_3": "done"}


def test_stages_are_told_of_as_they_begin():
    told = []
    list(run_stages(Recorder().stages, tasks_of(1), 10, told.append))
    stages = [event.stage for event in told if isinstance(event, Progress)]
    assert stages == ["read", "waiting", "prepare", "waiting", "infer", "waiting", "write"]
    assert isinstance(told[-1], CaseResult)


def test_an_error_of_the_tasks_reaches_the_caller_after_the_cases_before_it():
    def tasks():
        yield from tasks_of(1, 1)
        raise ZeroDivisionError

    results = run_stages(Recorder().stages, tasks(), 10, lambda _: None)
    assert [next(results).case, next(results).case] == ["case_0", "case_1"]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_caller_that_stops_leaves_nobody_waiting():
    before = threading.active_count()
    results = run_stages(Recorder().stages, tasks_of(*[100] * 50), 100, lambda _: None)
    next(results)
    results.close()
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_room_waits_for_what_others_give_back():
    room = Room(100)
    assert room.take(60)
    waiting = threading.Thread(target=room.take, args=(60,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    room.give_back(60)
    waiting.join(5)
    assert not waiting.is_alive()
