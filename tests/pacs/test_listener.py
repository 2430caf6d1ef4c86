"""A study comes, is segmented, and its results arrive; whatever happens in between, nothing is lost or sent twice."""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import pytest
from pydicom import dcmread

from medseg.batch.places import check_writable
from medseg.errors import ConfigError, ModelError, OutputError
from medseg.inference.predictor import Predictor
from medseg.pacs.journal import Journal
from medseg.pacs.listener import Work
from medseg.pacs.sending import SendError
from medseg.pacs.spool import Spool
from medseg.pacs.study import Study, StudyRecord
from medseg.pacs.tls import client_context, server_context

from .conftest import PATIENT, SEG, SR, Running, call, listen_config, make_series, push, until

RULES = "rules:\n  - modality: [CT]\n    min_slices: 6\n"


def only(node: Running, state: str) -> Study:
    (folder,) = (node.config.queue / state).iterdir()
    return Study(folder)


def history(node: Running) -> list[dict]:
    path = node.config.queue / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_study_comes_back_as_segmentation_and_report(listen, store, tmp_path):
    files = make_series(tmp_path / "series", description="CANARY liver")
    with store.running():
        node = listen(send_to=store.address)
        assert push(node.port, files) == [0] * 6
        until(lambda: node.state_of() == {"done": 1})
    assert store.kinds() == [SEG, SR]
    source = dcmread(files[0])
    assert {dataset.StudyInstanceUID for dataset in store.datasets} == {source.StudyInstanceUID}
    assert {str(dataset.PatientID) for dataset in store.datasets} == {PATIENT}
    mask, report = sorted(store.datasets, key=lambda dataset: dataset.SOPClassUID != SEG)
    assert mask.SOPInstanceUID in str(report)
    until(lambda: [line["event"] for line in history(node)] == ["complete", "segmented", "done"])
    assert not (node.config.queue / "work").exists()
    told = "\n".join(node.lines) + (node.config.queue / "history.jsonl").read_text()
    told += "".join(str(path) for path in node.config.queue.rglob("*"))
    told += (only(node, "done").folder / "study.json").read_text()
    for secret in ("CANARY", source.StudyInstanceUID, source.SOPInstanceUID, source.SeriesInstanceUID):
        assert secret not in told
    assert node.config.queue.stat().st_mode & 0o077 == 0


def test_a_study_comes_and_goes_over_tls_alone(listen, store, tmp_path, certificates):
    files = make_series(tmp_path / "series")
    with store.running(server_context(certificates("good"))):
        node = listen(send_to=store.address, send_tls=True, tls=certificates("good"))
        assert not call(node.port).is_established
        assert push(node.port, files, tls_args=(client_context(certificates("good")), "localhost")) == [0] * len(files)
        until(lambda: node.state_of() == {"done": 1})
    assert store.kinds() == [SEG, SR]


def test_an_unreachable_destination_is_tried_until_it_is_back(listen, store, tmp_path):
    node = listen(send_to=store.address)
    push(node.port, make_series(tmp_path / "series"))
    until(lambda: sum(line["event"] == "not sent" for line in history(node)) >= 2)
    assert node.state_of() == {"sending": 1}
    assert "can't be reached" in only(node, "sending").record.message
    store.answers = [0xA700]
    with store.running():
        until(lambda: node.state_of() == {"done": 1})
    assert store.kinds() == [SEG, SR]
    assert any("status A700" in line for line in node.lines)


def test_only_the_destination_that_lacks_them_gets_results_again(listen, store, tmp_path):
    with store.running():
        node = listen(send_to=store.address, stow="http://127.0.0.1:9/studies", send_tries=3, retry_seconds=0.1)
        push(node.port, make_series(tmp_path / "series"))
        until(lambda: node.state_of() == {"failed": 1})
    assert len(store.datasets) == 2
    assert only(node, "failed").record.sent == (store.address,)


def test_tries_are_bounded_and_what_failed_is_kept_and_can_be_tried_again(listen, store, tmp_path):
    node = listen(send_to=store.address, send_tries=2, retry_seconds=0.1)
    push(node.port, make_series(tmp_path / "series"))
    until(lambda: node.state_of() == {"failed": 1})
    record = only(node, "failed").record
    assert (record.reason, record.failed_in) == ("NOT_SENT", "sending")
    assert len(list(only(node, "failed").scans.iterdir())) == 6
    node.end()
    with store.running():
        again = listen(send_to=store.address, retry_failed=True)
        until(lambda: again.state_of() == {"done": 1})
    assert store.kinds() == [SEG, SR]
    assert [line["event"] for line in history(again)].count("segmented") == 1


def test_a_study_that_can_not_be_segmented_fails_with_its_reason(listen, tmp_path):
    files = make_series(tmp_path / "series")
    (tmp_path / "rules.yaml").write_text(RULES)
    node = listen(segment={"series_rule": tmp_path / "rules.yaml"})
    push(node.port, [*files[:2], *files[3:]])  # a slice is missing, and five are too few for the rules
    until(lambda: node.state_of() == {"failed": 1})
    record = only(node, "failed").record
    assert record.reason == "MISSING_SLICE"
    until(lambda: "MISSING_SLICE" in node.lines[-1])  # it is told after it is kept
    node.end()
    few = listen(segment={"series_rule": tmp_path / "rules.yaml"})
    push(few.port, make_series(tmp_path / "few", 1, (20, 18, 4), patient="B"))
    until(lambda: few.state_of() == {"failed": 2})
    reason = "NO_SERIES: no series of the study is one to segment (files left out: 4 NOT_SELECTED)"
    until(lambda: reason in few.lines[-1])


def test_a_study_without_findings_is_done(listen, tmp_path, monkeypatch):
    infer = Predictor.infer

    def nothing(self, prepared):
        prediction = infer(self, prepared)
        prediction.mask.array[:] = 0
        return prediction

    monkeypatch.setattr(Predictor, "infer", nothing)
    node = listen()
    push(node.port, make_series(tmp_path / "series"))
    until(lambda: node.state_of() == {"done": 1})
    assert only(node, "done").record.reason == "EMPTY"
    until(lambda: "nothing to send: no dicom-seg: nothing was found" in node.lines[-1])


def test_a_scan_that_is_refused_as_blank_is_no_study_without_findings(listen, tmp_path):
    node = listen(segment={"ingest": {"empty": "reject"}})
    push(node.port, make_series(tmp_path / "series", is_blank=True))
    until(lambda: node.state_of() == {"failed": 1})
    assert only(node, "failed").record.reason == "EMPTY"
    until(lambda: "one value everywhere" in node.lines[-1])


def test_a_late_slice_joins_the_study(listen, store, tmp_path):
    """The slices before it make a sound, shorter series; after it the mask is of all of them."""
    files = make_series(tmp_path / "series")
    with store.running():
        node = listen(send_to=store.address)
        push(node.port, files[:5])
        until(lambda: node.state_of() == {"done": 1})
        push(node.port, files[5:])
        until(lambda: node.state_of() == {"done": 2})
    first, second = (dataset for dataset in store.datasets if dataset.SOPClassUID == SEG)
    assert first.SOPInstanceUID != second.SOPInstanceUID

    def sources(dataset):
        return len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence)

    assert (sources(first), sources(second)) == (5, 6)


def test_the_same_study_again_is_the_same_object(listen, store, tmp_path):
    files = make_series(tmp_path / "series")
    with store.running():
        node = listen(send_to=store.address, keep_hours=0)
        for count in (1, 2):
            push(node.port, files)
            until(lambda expected=2 * count: len(store.datasets) == expected)
        until(lambda: node.state_of() == {})  # nothing is kept longer than was asked for
    uids = [dataset.SOPInstanceUID for dataset in store.datasets if dataset.SOPClassUID == SEG]
    assert len(uids) == 2
    assert len(set(uids)) == 1


def test_what_waits_at_the_start_is_done(listen, store, tmp_path, model):
    """Received, complete, half segmented and unsent studies of a process that is gone."""
    node = listen(quiet_seconds=600)
    push(node.port, make_series(tmp_path / "series"))
    node.end()
    queue = node.config.queue
    (received,) = (queue / "received").iterdir()
    os.rename(received, queue / "segmenting" / f"{received.name}.1")  # killed in the middle of it
    (queue / "segmenting" / f"{received.name}.1" / "results").mkdir()
    (queue / "work/cases/case-0").mkdir(parents=True)
    (queue / "incoming/0.dcm").write_bytes(b"half an instance")
    with store.running():
        again = listen(send_to=store.address)
        until(lambda: again.state_of() == {"done": 1})
    assert store.kinds() == [SEG, SR]
    assert not list((queue / "incoming").iterdir())


def test_a_study_that_ends_the_process_every_time_is_given_up(listen, tmp_path):
    node = listen(quiet_seconds=600)
    push(node.port, make_series(tmp_path / "series"))
    node.end()
    (received,) = (node.config.queue / "received").iterdir()
    study = Study(received)
    study.note(tries=3)
    os.rename(received, node.config.queue / "segmenting" / f"{received.name}.1")
    again = listen()
    until(lambda: again.state_of() == {"failed": 1})
    assert only(again, "failed").record.reason == "CRASHED"


def test_a_full_disk_postpones_a_study(listen, store, tmp_path, monkeypatch):
    full = [True]

    def check(folder):
        if full[0]:
            raise OutputError(f"can't write {folder}: the disk is full; free some space")
        check_writable(folder)

    monkeypatch.setattr("medseg.batch.run.check_writable", check)
    with store.running():
        node = listen(send_to=store.address)
        push(node.port, make_series(tmp_path / "series"))
        until(lambda: any(line["event"] == "postponed" for line in history(node)))
        full[0] = False
        until(lambda: node.state_of() == {"done": 1})


@pytest.mark.parametrize("lacking", [1, 3])
def test_a_series_that_lacked_memory_is_not_left_out_at_the_first_try(listen, store, tmp_path, monkeypatch, lacking):
    first, second = (make_series(tmp_path / f"{seed}", seed) for seed in (0, 1))
    study = dcmread(first[0]).StudyInstanceUID
    for file in second:
        dataset = dcmread(file)
        dataset.StudyInstanceUID = study
        dataset.save_as(file)
    infer, begun = Predictor.infer, []

    def short_of_memory(self, prepared):
        begun.append(prepared)
        if len(begun) % 2 == 0 and len(begun) <= 2 * lacking:
            raise MemoryError
        return infer(self, prepared)

    monkeypatch.setattr(Predictor, "infer", short_of_memory)
    with store.running():
        node = listen(send_to=store.address)
        push(node.port, [*first, *second])
        until(lambda: node.state_of() == {"done": 1})
    whole = lacking < 3
    assert store.kinds() == ([SEG, SEG, SR, SR] if whole else [SEG, SR])
    assert [problem.reason for problem in only(node, "done").record.problems] == ([] if whole else ["OUT_OF_MEMORY"])
    assert [line["event"] for line in history(node)].count("postponed") == (1 if whole else 2)


@pytest.fixture
def work(tmp_path):
    """The steps of a node that has neither a port nor a model."""
    config = listen_config(tmp_path / "queue", tmp_path, retry_seconds=0.01)
    with closing(Spool(config.queue, bytes(32), config.limits)) as spool:
        yield Work(config, spool, Journal(config.queue, lambda line: None), ())


def put(place: Path, *scans: str) -> None:
    """Put a study into a queue."""
    (place / "scans").mkdir(parents=True)
    for scan in scans:
        (place / "scans" / scan).write_bytes(b"x")


def test_a_study_whose_fault_could_not_be_noted_is_begun_again_when_there_is_room(work, monkeypatch):
    put(work.spool.root / "complete" / "study-1.1", "a.dcm")

    def full(path: Path, text: str) -> None:
        raise OutputError(f"can't write {path}: the disk is full; free some space")

    class OnceFull:
        begun = 0

        def segment(self, study: Study, *, is_last_try: bool) -> StudyRecord:
            self.begun += 1
            if self.begun == 1:
                monkeypatch.setattr("medseg.pacs.study.write_text", full)
                raise OSError(errno.ENOSPC, "No space left on device")
            return StudyRecord(send=("mask.dcm",))

    segmenter, stop = OnceFull(), Event()
    work.surely(partial(work.step, segmenter, stop), stop)
    monkeypatch.undo()
    work.surely(partial(work.step, segmenter, stop), stop)
    assert segmenter.begun == 2
    assert [study.name for study in work.spool.listed("sending")] == ["study-1"]


def test_a_study_that_lost_its_record_before_it_was_sent_is_segmented_again(work):
    put(work.spool.root / "sending" / "study-1.1", "a.dcm")
    (study,) = work.spool.listed("sending")
    work.send(study)
    assert [study.name for study in work.spool.listed("complete")] == ["study-1"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(), SystemExit(1)])
def test_what_can_not_be_shown_keeps_nobody_from_working(work, error):
    """The log that the screen is written to may be full; rich ends a process whose output nobody reads any more."""

    def nobody(line: str) -> None:
        raise error

    put(work.spool.root / "sending" / "study-1.1", "a.dcm")
    (study,) = work.spool.listed("sending")
    study.note(send=("mask.dcm",))
    replace(work, journal=Journal(work.spool.root, nobody)).send(study)
    assert [study.name for study in work.spool.listed("done")] == ["study-1"]
    assert '"event": "done"' in (work.spool.root / "history.jsonl").read_text()


def test_a_destination_that_is_down_keeps_no_results_from_the_others(work):
    class Place:
        def __init__(self, name: str, *, is_down: bool) -> None:
            self.name, self.is_down, self.files = name, is_down, []

        def send(self, files):
            if self.is_down:
                raise SendError(f"{self.name} can't be reached")
            self.files += files

    down, up = Place("down", is_down=True), Place("up", is_down=False)
    put(work.spool.root / "sending" / "study-1.1", "a.dcm")
    (study,) = work.spool.listed("sending")
    study.note(send=("mask.dcm",))
    replace(work, destinations=(down, up)).send(study)
    assert [file.name for file in up.files] == ["mask.dcm"]
    (study,) = work.spool.listed("sending")
    assert (study.record.sent, study.record.tries, study.record.message) == (("up",), 1, "down can't be reached")


def crash_half_way(folder: Path) -> None:
    """Remove one slice of a study's folder instead of all of it."""
    (folder / "scans" / "a.dcm").unlink()
    raise KeyboardInterrupt


def test_a_crash_while_a_late_slice_is_joined_leaves_one_whole_study(tmp_path, monkeypatch):
    config = listen_config(tmp_path / "queue", tmp_path)
    config.queue.mkdir(mode=0o700)
    put(config.queue / "complete" / "study-1.1", "a.dcm", "b.dcm")
    put(config.queue / "received" / "study-1", "c.dcm")

    with closing(Spool(config.queue, bytes(32), config.limits)) as spool, monkeypatch.context() as patch:
        patch.setattr("medseg.pacs.spool.shutil.rmtree", crash_half_way)
        with pytest.raises(KeyboardInterrupt):
            spool.complete(0)
    with closing(Spool(config.queue, bytes(32), config.limits)) as spool:
        spool.complete(0)
        (study,) = spool.listed("complete")
    assert sorted(scan.name for scan in study.scans.iterdir()) == ["a.dcm", "b.dcm", "c.dcm"]


def test_a_crash_while_a_study_is_removed_leaves_no_half_of_it(tmp_path, monkeypatch):
    config = listen_config(tmp_path / "queue", tmp_path)
    config.queue.mkdir(mode=0o700)
    put(config.queue / "failed" / "study-1.1", "a.dcm", "b.dcm")

    with closing(Spool(config.queue, bytes(32), config.limits)) as spool, monkeypatch.context() as patch:
        patch.setattr("medseg.pacs.spool.shutil.rmtree", crash_half_way)
        with pytest.raises(KeyboardInterrupt):
            spool.expired("failed", 0)
    with closing(Spool(config.queue, bytes(32), config.limits)) as spool:
        assert spool.listed("failed") == []
        assert not list((config.queue / "incoming").iterdir())


def test_an_instance_that_several_folders_hold_is_counted_once(tmp_path):
    config = listen_config(tmp_path / "queue", tmp_path)
    config.queue.mkdir(mode=0o700)
    put(config.queue / "done" / "study-1.1", "a.dcm")
    put(config.queue / "received" / "study-1", "c.dcm")
    with closing(Spool(config.queue, bytes(32), config.limits)) as spool:
        before = spool.measure()
        spool.complete(0)
        assert spool.measure() == before


def test_where_files_can_not_be_linked_a_full_disk_joins_no_part_of_one(tmp_path, monkeypatch):
    config = listen_config(tmp_path / "queue", tmp_path)
    config.queue.mkdir(mode=0o700)
    put(config.queue / "complete" / "study-1.1", "a.dcm")
    put(config.queue / "received" / "study-1", "c.dcm")
    (config.queue / "complete" / "study-1.1" / "scans" / "a.dcm").write_bytes(b"whole")

    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    def full(source, target):
        Path(target).write_bytes(b"wh")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medseg.pacs.spool.os.link", no_links)
    with closing(Spool(config.queue, bytes(32), config.limits)) as spool:
        with monkeypatch.context() as patch:
            patch.setattr("medseg.pacs.spool.shutil.copyfile", full)
            with pytest.raises(OSError, match="No space left"):
                spool.complete(0)
        spool.complete(0)
        (study,) = spool.listed("complete")
    assert {scan.name: scan.read_bytes() for scan in study.scans.iterdir()} == {"a.dcm": b"whole", "c.dcm": b"x"}


def test_one_queue_one_listener(listen, tmp_path, model):
    node = listen()
    with pytest.raises(ConfigError, match="another medseg listen uses the queue"):
        Running(listen_config(node.config.queue, model)).start()


def test_what_can_not_work_is_told_at_the_start(listen, tmp_path, model):
    with pytest.raises(ModelError):
        Running(listen_config(tmp_path / "q", tmp_path / "nothing")).start()
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match=r"others can enter the queue .*chmod 700"):
        Running(listen_config(tmp_path / "open", model)).start()
    (tmp_path / "rules.yaml").write_text("rules: 5\n")
    with pytest.raises(ConfigError, match=r"rules\.yaml"):
        Running(listen_config(tmp_path / "q", model, segment={"series_rule": tmp_path / "rules.yaml"})).start()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"send_to": None}, "nowhere to go"),
        ({"send_to": "ORTHANC"}, "AE@host:port"),
        ({"send_to": "A@b:99999"}, "AE@host:port"),
        ({"allow": ()}, "allow"),
        ({"allow": ("TOO LONG AN AE TITLE",)}, "no AE title"),
        ({"ae_title": "A\\B"}, "no AE title"),
        ({"stow": "ftp://x/"}, "DICOMweb"),
        ({"stow": "http://user:secret@x/"}, "MEDSEG_STOW_AUTHORIZATION"),
        ({"send_tls": True}, "files for TLS"),
        ({"quiet_seconds": 0}, "quiet_seconds"),
    ],
)
def test_wrong_settings_are_named(tmp_path, fields, words):
    with pytest.raises(ConfigError, match=words):
        listen_config(tmp_path / "q", tmp_path, **fields)
