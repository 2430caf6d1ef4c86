"""Results on their way: what a destination says decides whether they have arrived."""

from __future__ import annotations

import email.parser
import email.policy
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE

from medseg.pacs.sending import AUTHORIZATION, SendError, StoreUser, WebStore, open_destinations
from medseg.pacs.tls import client_context, server_context

from .conftest import SEG, Store, listen_config, make_series

FAILED = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}'


@pytest.fixture
def results(tmp_path):
    """Two objects that are called segmentations."""
    files = make_series(tmp_path / "series", shape=(8, 8, 2))
    for file in files:
        dataset = dcmread(file)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(SEG)
        dataset.save_as(file)
    return files


@pytest.fixture
def config(tmp_path):
    return listen_config(tmp_path / "queue", tmp_path, limits={"idle_seconds": 3})


@contextmanager
def service(status: int = 200, answer: bytes = b"{}", tls: ssl.SSLContext | None = None):
    """Run a DICOMweb service that gives one answer, and keeps what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    class Quiet(HTTPServer):
        def handle_error(self, *_):  # whoever does not trust the certificate hangs up
            pass

    with Quiet(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http{'s' * bool(tls)}://127.0.0.1:{server.server_address[1]}/dicom-web/studies", asked
        server.shutdown()


def test_stow_posts_whole_files_as_one_request(config, results, monkeypatch):
    monkeypatch.setenv(AUTHORIZATION, "Bearer token")
    with service() as (url, asked):
        WebStore(config, url).send(results)
    ((path, headers, body),) = asked
    assert path == "/dicom-web/studies"
    assert headers["Authorization"] == "Bearer token"
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    assert (message.get_content_type(), message.get_param("type")) == ("multipart/related", "application/dicom")
    assert [part.get_content_type() for part in message.iter_parts()] == ["application/dicom"] * 2
    starts = [body.index(file.read_bytes()) for file in results]  # to the byte, wherever a parser breaks lines
    assert starts == sorted(starts)


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [(200, FAILED, "HTTP status 200"), (202, FAILED, "202"), (500, b"", "500"), (401, b"", "401"), (302, b"", "302")],
)
def test_stow_that_stores_not_everything_has_failed(config, results, status, answer, words):
    with service(status, answer) as (url, _), pytest.raises(SendError, match=words):
        WebStore(config, url).send(results)


@pytest.mark.parametrize("answer", [b"", b"<xml/>", b"[]", b'{"00081199": {"Value": []}}'])
def test_stow_that_says_nothing_of_failures_has_stored(config, results, answer):
    with service(200, answer) as (url, _):
        WebStore(config, url).send(results)


def test_services_that_are_not_there(config, results):
    with pytest.raises(SendError, match="can't be reached"):
        WebStore(config, "http://127.0.0.1:9/studies").send(results)
    with pytest.raises(SendError, match="STORE@127.0.0.1:9 can't be reached"):
        StoreUser(config, "STORE@127.0.0.1:9", None).send(results)


def test_a_node_that_refuses_an_object_or_the_caller(config, results):
    store = Store()
    store.answers = [0xB000, 0xC000]  # a warning is a success
    with store.running():
        with pytest.raises(SendError, match="status C000"):
            StoreUser(config, store.address, None).send(results)
        dataset = dcmread(results[0])
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.88.11")
        dataset.save_as(results[0])
        with pytest.raises(SendError, match="does not take 0001.dcm"):
            StoreUser(config, store.address, None).send(results)
    entity = AE("STORE")
    entity.require_calling_aet = ["OTHER"]
    entity.add_supported_context(SEG)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        with pytest.raises(SendError, match="refused the association"):
            StoreUser(config, f"STORE@127.0.0.1:{server.server_address[1]}", None).send(results)
    finally:
        server.shutdown()


# ---- TLS


def test_c_store_over_tls_shows_and_checks_certificates(config, results, certificates):
    store = Store()
    mine = config.model_copy(update={"send_to": store.address, "send_tls": True, "tls": certificates("good")})
    with store.running(server_context(certificates("good"))):
        (destination,) = open_destinations(mine)
        destination.send(results)
        assert store.kinds() == [SEG] * len(results)
        for tls in (None, client_context(certificates("other"))):  # no certificate, and one that nobody knows
            with pytest.raises(SendError, match="can't be reached"):
                StoreUser(config, store.address, tls).send(results)
    assert len(store.datasets) == len(results)


def test_results_go_to_no_store_with_a_strange_certificate_or_another_hosts(config, results, certificates):
    store, mine = Store(), client_context(certificates("good"))
    with store.running(server_context(certificates("other"))), pytest.raises(SendError, match="can't be reached"):
        StoreUser(config, store.address, mine).send(results)
    store.host = "127.0.0.2"  # the certificate is for 127.0.0.1
    with store.running(server_context(certificates("good"))), pytest.raises(SendError, match="can't be reached"):
        StoreUser(config, store.address, mine).send(results)
    assert store.datasets == []


def test_stow_over_https_trusts_the_given_authority_alone(config, results, certificates):
    mine = config.model_copy(update={"tls": certificates("good")})
    with service(tls=server_context(certificates("good"))) as (url, asked):
        WebStore(mine, url).send(results)
        assert len(asked) == 1
        with pytest.raises(SendError, match="can't be reached"):
            WebStore(config, url).send(results)  # the system's authorities don't know it
    with service(tls=server_context(certificates("other"))) as (url, asked):
        with pytest.raises(SendError, match="can't be reached"):
            WebStore(mine, url).send(results)
        assert asked == []
