"""The node: who may send, what is taken, with which answer; and what a hostile caller can't do to it."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, EnhancedCTImageStorage, MRImageStorage

from medseg.errors import ConfigError
from medseg.pacs.journal import Journal
from medseg.pacs.node import listening, storage_contexts
from medseg.pacs.refusal import Status
from medseg.pacs.settings import TlsFiles
from medseg.pacs.spool import Spool
from medseg.pacs.tls import client_context

from .conftest import call, listen_config, make_series, push, until

KEY = bytes(32)
CONVERSATIONS = int(os.environ.get("MEDSEG_CONVERSATIONS", 30))
"""Damaged ones in the test below; more for a night."""


@pytest.fixture
def node(tmp_path):
    """Return a context manager that runs a node without a model, and gives its port, queue and lines."""

    @contextmanager
    def run(**fields):
        config = listen_config(tmp_path / "queue", tmp_path, **fields)
        spool, lines = Spool(config.queue, KEY, config.limits), []
        try:
            with listening(config, spool, Journal(config.queue, lines.append)) as port:
                yield port, spool, lines
        finally:
            spool.close()

    return run


def received(spool: Spool) -> list:
    return sorted((spool.root / "received").glob("*/scans/*.dcm"))


def test_echo_and_store(node, tmp_path):
    files = make_series(tmp_path / "series")
    with node() as (port, spool, lines):
        association = call(port)
        assert association.send_c_echo().Status == 0
        assert [association.send_c_store(file).Status for file in files] == [0] * 6
        association.release()
        assert sorted(dcmread(file).InstanceNumber for file in received(spool)) == [1, 2, 3, 4, 5, 6]
        assert len({file.parent for file in received(spool)}) == 1
        assert not list((spool.root / "incoming").iterdir())
        original, kept = dcmread(files[0]), dcmread(received(spool)[0])
        assert kept.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        assert any(np.array_equal(dcmread(file).pixel_array, original.pixel_array) for file in received(spool))
    assert not any("1.2.826" in line or "CANARY" in line for line in lines)


def test_refusals_do_not_fill_the_disk(node, monkeypatch):
    monkeypatch.setattr("medseg.pacs.node.LINES_A_MINUTE", 3)
    with node() as (port, _, lines):
        for _ in range(6):
            assert call(port, "STRANGER").is_rejected
        until(lambda: len(lines) >= 3)  # callers hear of it before it is written down
        assert len(lines) == 3


@pytest.mark.parametrize(("title", "called"), [("STRANGER", "MEDSEG"), ("SCANNER", "OTHER"), ("scanner", "MEDSEG")])
def test_unknown_callers_and_wrong_names_are_refused(node, title, called):
    with node() as (port, spool, lines):
        association = call(port, title, called)
        assert association.is_rejected
        until(lambda: lines)
        assert repr(title) in lines[0]
        line = json.loads((spool.root / "history.jsonl").read_text())
        assert (line["event"], line["title"]) == ("rejected", title)


def test_what_comes_twice_is_kept_once(node, tmp_path):
    files = make_series(tmp_path / "series")[:2]
    with node() as (port, spool, _):
        assert push(port, [*files, *files]) == [0] * 4
        assert push(port, files) == [0, 0]
        assert len(received(spool)) == 2


def test_too_large_and_too_much_is_out_of_resources(node, tmp_path):
    files = make_series(tmp_path / "series")
    large = make_series(tmp_path / "large", 1, (400, 300, 1))[0]  # 240 KB
    with node(limits={"instance_mb": 0.1, "quota_gb": 6e-6}) as (port, spool, lines):
        statuses = push(port, [large, *files])  # 0.8 KB of pixels each, some headers
        assert statuses[0] == Status.NO_ROOM
        assert statuses[1] == 0
        assert statuses[-1] == Status.NO_ROOM
        kept = len(received(spool))
        assert kept == statuses.count(0) < 6
        assert spool.measure() < 6000 + 2000  # the history is counted when it is next measured
        assert "--max-instance-mb" in lines[0]
        assert "--quota-gb" in lines[-1]


def test_a_full_disk_is_out_of_resources(node, tmp_path, monkeypatch):
    files = make_series(tmp_path / "series")
    with node() as (port, spool, lines):
        monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert push(port, files[:2]) == [Status.NO_ROOM] * 2
        assert "the disk is full" in lines[0]
        monkeypatch.undo()
        assert not received(spool)
        assert push(port, files[:1]) == [0]
    with node(limits={"free_gb": 1e6}) as (port, _, _):
        assert push(port, files[:1]) == [Status.NO_ROOM]


def test_an_answer_is_given_after_the_flush(node, tmp_path, monkeypatch):
    """Nothing is acknowledged that a power cut could take: file, its name, and the folder's name are flushed."""
    flushed, fsync = [], os.fsync

    def watch(handle):
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr("os.fsync", watch)
    with node() as (port, spool, _):
        flushed.clear()
        assert push(port, make_series(tmp_path / "series")[:1]) == [0]
        (file,) = received(spool)
        assert "/incoming/" in flushed[0]
        assert {str(file.parent), str(file.parent.parent), str(file.parent.parent.parent)} <= set(flushed)


def encoded(dataset) -> bytes:
    """Return the elements as a sender would encode them."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def with_study(file, uid: str) -> tuple[bytes, str]:
    """Return the elements of a file with another study UID, and its instance UID."""
    dataset = dcmread(file)
    known, dataset.StudyInstanceUID = "1." * 30 + "9", "1." * 30 + "9"
    letters = uid.ljust(len(known), "\0")
    return encoded(dataset).replace(known.encode(), letters.encode()[: len(known)]), dataset.SOPInstanceUID


def send_raw(port: int, data: bytes, sop_class=CTImageStorage, instance: str = "1.2.3") -> int:
    """Send bytes as an instance, whatever they are."""
    from pynetdicom.dimse_primitives import C_STORE

    association = call(port, contexts=(sop_class,))
    assert association.is_established
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, instance
    request.DataSet = BytesIO(data)
    (context,) = [one for one in association.accepted_contexts if one.abstract_syntax == sop_class]
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    return answer.Status


def test_what_is_no_instance_is_not_understood(node, tmp_path):
    files = make_series(tmp_path / "series")
    with node() as (port, spool, lines):
        for uid in ("", "../../etc/x", "1.2.840\0/../..", "CANARY^ANNA"):
            data, instance = with_study(files[0], uid)
            assert send_raw(port, data, instance=instance) == Status.NOT_UNDERSTOOD, uid
        assert send_raw(port, b"\xff" * 500) in (Status.NOT_UNDERSTOOD, Status.MISMATCH)
        assert send_raw(port, b"\x08") in (Status.NOT_UNDERSTOOD, Status.MISMATCH)
        rng = np.random.default_rng(0)
        for _ in range(8):
            status = send_raw(port, rng.bytes(300))
            assert status in (Status.NOT_UNDERSTOOD, Status.MISMATCH)
        assert not received(spool)
        assert not list((spool.root / "incoming").iterdir())
        assert push(port, files[:1]) == [0]
        assert all("CANARY" not in line and "../" not in line for line in lines)


def test_other_uids_than_announced_are_a_mismatch(node, tmp_path):
    dataset = dcmread(make_series(tmp_path / "series")[0])
    with node() as (port, spool, _):
        assert send_raw(port, encoded(dataset), instance="1.2.3") == Status.MISMATCH
        assert send_raw(port, encoded(dataset), MRImageStorage, dataset.SOPInstanceUID) == Status.MISMATCH
        assert not received(spool)
        assert send_raw(port, encoded(dataset), instance=dataset.SOPInstanceUID) == 0


def test_images_that_are_not_segmented_are_not_negotiated(node):
    with node() as (port, _, _):
        association = call(port, contexts=("1.2.840.10008.5.1.4.1.1.66.4", MRImageStorage, EnhancedCTImageStorage))
        assert "1.2.840.10008.5.1.4.1.1.66.4" in {context.abstract_syntax for context in association.rejected_contexts}
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        assert {MRImageStorage, EnhancedCTImageStorage} <= accepted
        association.release()


def test_compressed_slices_come_as_they_are(node, tmp_path):
    syntaxes = storage_contexts()[CTImageStorage]
    assert {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"} <= set(syntaxes)
    assert "1.2.840.10008.1.2.1.99" not in syntaxes
    with node() as (port, spool, _):
        for seed, encoding in enumerate(("rle", "j2k", "jpegls")):
            file = make_series(tmp_path / encoding, seed, (64, 64, 6), encoding=encoding)[0]
            entity = AE("SCANNER")
            entity.add_requested_context(CTImageStorage, dcmread(file).file_meta.TransferSyntaxUID)
            association = entity.associate("127.0.0.1", port, ae_title="MEDSEG")
            assert association.send_c_store(file).Status == 0
            association.release()
        stored = {dcmread(file).file_meta.TransferSyntaxUID for file in received(spool)}
        assert stored == {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"}


def test_one_association_too_many_is_refused_and_the_others_go_on(node, tmp_path):
    files = make_series(tmp_path / "series")
    with node(limits={"associations": 3}) as (port, _, _):
        open_ones = [call(port) for _ in range(3)]
        assert all(one.is_established for one in open_ones)
        assert call(port).is_rejected
        assert [one.send_c_store(file).Status for one, file in zip(open_ones, files, strict=False)] == [0] * 3
        open_ones[0].release()
        until(lambda: call(port).is_established, 10)


def test_many_senders_at_once_lose_nothing(node, tmp_path):
    series = [make_series(tmp_path / str(number), number, patient=f"P{number}") for number in range(6)]
    with node() as (port, spool, _):
        statuses: list[int] = []
        threads = [threading.Thread(target=lambda files=files: statuses.extend(push(port, files))) for files in series]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert statuses == [0] * 36
        assert len(received(spool)) == 36
        assert len({file.parent.parent for file in received(spool)}) == 6


# ---- what comes over the wire


def closes(connection: socket.socket, seconds: float = 10) -> bool:
    """Whether the node ends a connection, perhaps after some last words."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x01\x00" + struct.pack(">L", 0xFFFFFFF0) + b"x" * 100,
        b"\x01\x00" + struct.pack(">L", 68) + b"\xff" * 68,
        b"\x04\x00" + struct.pack(">L", 6) + b"\0\0\0\1\1\2",
        b"\x07\x00" + struct.pack(">L", 4) + b"\0\0\0\0",
        bytes(range(256)) * 4,
    ],
)
def test_garbage_ends_its_own_connection_only(node, tmp_path, garbage):
    with node(limits={"idle_seconds": 1}) as (port, _, _):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(garbage)
            assert closes(connection)
        assert push(port, make_series(tmp_path / "series")[:1]) == [0]


def recorded(port: int, file) -> bytes:
    """Return all bytes that a sender of one instance sends."""
    said = []
    association = call(port, evt_handlers=[(evt.EVT_DATA_SENT, lambda event: said.append(event.data))])
    assert association.send_c_store(file).Status == 0
    association.release()
    return b"".join(said)


@pytest.mark.filterwarnings("ignore::UserWarning")  # as the listener does with all
def test_damaged_conversations_cost_nobody_else_anything(node, tmp_path):
    """A sender's bytes with some of them changed, cut out or doubled: the node answers the next caller as before."""
    files, rng = make_series(tmp_path / "series", shape=(8, 8, 2)), np.random.default_rng(0)
    with node(limits={"idle_seconds": 1, "associations": 40}) as (port, spool, lines):
        whole = np.frombuffer(recorded(port, files[0]), np.uint8)
        connections = []
        for _ in range(CONVERSATIONS):
            data = whole.copy()
            places = rng.integers(0, len(data), rng.integers(1, 6))
            data[places] = rng.integers(0, 256, len(places))
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(data.tobytes() if rng.random() < 0.7 else data[: rng.integers(len(data))].tobytes())
            connections.append(connection)
            if len(connections) >= 20:
                connections.pop(0).close()
        for connection in connections:
            connection.close()
        assert push(port, files) == [0, 0]
        assert not list((spool.root / "incoming").iterdir())
        assert all(re.fullmatch(r"instance-[0-9a-f]{32}\.dcm", file.name) for file in received(spool))
        assert not any("CANARY" in line for line in lines)


def test_a_pdu_that_never_ends_and_one_that_is_too_long(node, tmp_path):
    with node(limits={"idle_seconds": 1}) as (port, _, _):
        with (
            socket.create_connection(("127.0.0.1", port)) as silent,
            socket.create_connection(("127.0.0.1", port)) as slow,
        ):
            slow.sendall(b"\x01\x00" + struct.pack(">L", 200) + b"\0\1")
            assert closes(slow)
            assert closes(silent)
        association = call(port)
        began = time.monotonic()
        association.dul.socket.send(b"\x04\x00" + struct.pack(">L", 1 << 30))
        until(lambda: association.is_aborted or not association.is_established, 5)
        assert time.monotonic() - began < 5


def test_an_association_ends_at_its_time_however_busy(node):
    with node(limits={"association_seconds": 1}) as (port, _, _):
        association, began = call(port), time.monotonic()
        while association.is_established and time.monotonic() < began + 10:
            association.send_c_echo()
            time.sleep(0.05)
        assert time.monotonic() - began < 5


def test_requests_that_wait_for_no_answer_are_cut_off(node, tmp_path, monkeypatch):
    """Whoever sends faster than answers come can't fill the memory."""
    from pynetdicom.dimse_primitives import C_ECHO

    with node() as (port, spool, _):
        started = threading.Event()

        def slow(*_):
            started.set()
            time.sleep(1)
            return "study"

        monkeypatch.setattr(spool, "store", slow)
        file = dcmread(make_series(tmp_path / "series")[0])
        association = call(port)
        threading.Thread(target=lambda: association.send_c_store(file), daemon=True).start()
        assert started.wait(10)
        request = C_ECHO()
        request.MessageID, request.AffectedSOPClassUID = 7, "1.2.840.10008.1.1"
        for _ in range(8):
            association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        until(lambda: not association.is_established, 10)


def test_connections_that_say_nothing_are_bounded(node, monkeypatch):
    monkeypatch.setattr("medseg.pacs.bounded.SPARE_CONNECTIONS", 3)
    with node(limits={"associations": 1, "idle_seconds": 30}) as (port, _, _):
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        try:
            time.sleep(0.5)
            cut = sum(closes(connection, 0.02) for connection in connections)
            assert 2 <= cut <= 6
        finally:
            for connection in connections:
                connection.close()


def test_connections_that_got_no_thread_take_no_place(node, monkeypatch):
    """A machine at its limit of threads; afterwards, everybody is answered again."""
    with node() as (port, _, _):
        with monkeypatch.context() as patch:
            failed = []

            def no_thread(self, request, client_address):
                failed.append(client_address)
                raise RuntimeError("can't start new thread")

            patch.setattr("socketserver.ThreadingMixIn.process_request", no_thread)
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    assert connection.recv(1) == b""
            assert len(failed) == 20
        association = call(port)
        assert association.is_established
        association.release()


# ---- TLS


def test_tls_takes_callers_with_a_certificate_only(node, tmp_path, certificates):
    files = make_series(tmp_path / "series")
    with node(tls=certificates("good"), limits={"idle_seconds": 3}) as (port, spool, _):
        secure = client_context(certificates("good"))
        assert push(port, files[:2], tls_args=(secure, "localhost")) == [0, 0]
        plain = call(port)
        assert not plain.is_established
        stranger = client_context(certificates("other"))
        assert not call(port, tls_args=(stranger, "localhost")).is_established
        with socket.create_connection(("127.0.0.1", port)):  # shakes no hands, and holds nobody up
            assert push(port, files[2:3], tls_args=(secure, "localhost")) == [0]
        assert len(received(spool)) == 3


def test_wrong_files_for_tls_are_named(node, tmp_path):
    (tmp_path / "x.pem").write_text("no certificate")
    wrong = TlsFiles(certificate=tmp_path / "x.pem", key=tmp_path / "x.pem", authority=tmp_path / "x.pem")
    with pytest.raises(ConfigError, match=r"TLS can't use .*x\.pem"), node(tls=wrong):
        pass


def test_a_port_in_use_is_named(node, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1, port {taken}"), node(port=taken):
            pass
