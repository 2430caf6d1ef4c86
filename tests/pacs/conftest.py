"""A node in this process, a store that takes its results, small series, and a model that finds something in them."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom, from the extra pacs, is not installed")

from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification
from pynetdicom.transport import AssociationSocket

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.pacs.listener import run_listener
from medseg.pacs.settings import ListenConfig, TlsFiles, make_listen_config
from medseg.pacs.spool import Spool
from medseg.volume import Volume

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
PATIENT = "CANARY^ANNA"
SHAPE = (20, 18, 6)
UNUSED = "127.0.0.1:9"
"""Port of the discard service, which nobody runs."""
PUSHING = threading.Lock()
"""Held while a study is sent."""


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def _client_that_closes(monkeypatch):
    """Mend pynetdicom's client, which leaves its socket open where the node was faster to close it, or not there."""
    plain = AssociationSocket._shutdown_socket

    def shut(self):
        client = self.socket
        plain(self)
        if client is not None:
            client.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", shut)


@pytest.fixture(autouse=True)
def _pushed_whole(monkeypatch):
    """Let no study end in the middle of a push, however long a slow disk takes to flush an instance."""
    complete = Spool.complete

    def after_push(self, quiet_seconds):
        return [] if PUSHING.locked() else complete(self, quiet_seconds)

    monkeypatch.setattr(Spool, "complete", after_push)


def make_series(
    folder: Path, seed: int = 0, shape: tuple[int, int, int] = SHAPE, *, is_blank: bool = False, **words: str
) -> list[Path]:
    """Write a CT series with a bright block in the middle, or of one value; returns its files in order."""
    rng = np.random.default_rng(seed)
    array = rng.normal(-50, 20, (1, *shape)).astype(np.float32)
    array[0, 5:12, 4:11, 2:5] = 300
    if is_blank:
        array[:] = 0
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    write_series(Volume(array, Grid(shape, affine)), folder, seed=seed, patient=words.pop("patient", PATIENT), **words)
    return sorted(folder.iterdir())


def save_small_model(folder: Path, spacing: tuple[float, float, float] = (2.0, 2.0, 3.0)) -> Path:
    """Write a model folder of random weights, with a seed that calls some voxels liver."""
    import torch

    from medseg.labels import LabelMap
    from medseg.networks.build import build_network
    from medseg.networks.model import Model, save_model
    from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

    labels = LabelMap.parse({"liver": 1})
    plan = Plan(
        dimensions=3,
        spacing=spacing,
        slice_axis=2,
        patch=(64, 64, 8),
        batch=2,
        channels=("ct",),
        normalisation=(ChannelNormalisation(kind="clip", low=-1000, high=1000, mean=100, std=100),),
        mirror=(False, False, False),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
    )
    torch.manual_seed(1)
    save_model(Model((build_network(plan, labels.outputs),), plan, labels, name="small"), folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def medseg() -> Callable:
    """Return a function that runs ``medseg WORDS`` in this process."""
    from typer.testing import CliRunner

    from medseg.cli.app import app

    def run(*words: object):
        command = [*map(str, words), *(["--workers", "0"] if "segment" in words else [])]
        return CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "200"})

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Callable[..., TlsFiles]:
    """An authority, a certificate of it for 127.0.0.1, and one of another authority."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    try:
        for name in ("good", "other"):
            new = f"-newkey rsa:2048 -nodes -days 2 -subj /CN={name}"
            openssl(*f"req -x509 {new} -keyout {name}-ca.key -out {name}-ca.pem".split())
            openssl(*f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN=localhost".split())
            (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
            openssl(
                *f"x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -days 2 "
                f"-out {name}.pem -extfile names".split()
            )
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificates, is not installed")

    def files(name: str, authority: str = "good") -> TlsFiles:
        return TlsFiles(
            certificate=folder / f"{name}.pem", key=folder / f"{name}.key", authority=folder / f"{authority}-ca.pem"
        )

    return files


class Store:
    """A node that keeps what it is sent, and gives each answer of `answers` once before it takes anything."""

    def __init__(self) -> None:
        self.datasets: list = []
        self.answers: list[int] = []
        self.host, self.port = "127.0.0.1", free_port()

    def on_store(self, event: evt.Event) -> int:
        if self.answers:
            return self.answers.pop(0)
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.datasets.append(dataset)
        return 0x0000

    @property
    def address(self) -> str:
        return f"STORE@{self.host}:{self.port}"

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[Store]:
        entity = AE("STORE")
        for sop_class in (SEG, SR, CTImageStorage, Verification):
            entity.add_supported_context(sop_class)
        handlers = [(evt.EVT_C_STORE, self.on_store)]
        server = entity.start_server((self.host, self.port), block=False, evt_handlers=handlers, ssl_context=tls)
        try:
            yield self
        finally:
            for association in entity.active_associations:
                association.abort()
            server.shutdown()

    def kinds(self) -> list[str]:
        return sorted(str(dataset.SOPClassUID) for dataset in self.datasets)


@pytest.fixture
def store() -> Store:
    return Store()


class Running:
    """A node that runs in a thread."""

    def __init__(self, config: ListenConfig) -> None:
        self.config, self.lines, self.port = config, [], 0
        self.stop, self._ready = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            run_listener(self.config, self.lines.append, self.stop, self._answer)
        except BaseException as error:
            self.error = error
            self._ready.set()

    def _answer(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def start(self) -> Running:
        self._thread.start()
        assert self._ready.wait(60)
        if self.error:
            raise self.error
        return self

    def end(self) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def state_of(self) -> dict[str, int]:
        """Return how many studies are in each state."""
        folders = ("received", "complete", "segmenting", "sending", "done", "failed")
        return {name: count for name in folders if (count := len(list((self.config.queue / name).iterdir())))}


@pytest.fixture
def listen(tmp_path, model) -> Iterator[Callable]:
    """Return a function that starts a node in this process."""
    started: list[Running] = []

    def start(**fields: object) -> Running:
        running = Running(listen_config(tmp_path / "queue", model, **fields)).start()
        started.append(running)
        return running

    yield start
    for running in started:
        running.end()


def listen_config(queue: Path, model: Path, **fields: object) -> ListenConfig:
    segment = {"workers": 0, "device": "cpu", "formats": ("nifti", "dicom-seg", "dicom-sr")}
    limits = {"free_gb": 0, **fields.pop("limits", {})}
    words = {
        "allow": ("SCANNER",),
        "port": 0,
        "quiet_seconds": 0.3,
        "retry_seconds": 0.3,
        "send_to": f"STORE@{UNUSED}",
        "segment": {**segment, **fields.pop("segment", {})},
    }
    return make_listen_config(queue=queue, model=model, limits=limits, **{**words, **fields})


def call(port: int, title: str = "SCANNER", called: str = "MEDSEG", contexts: tuple = (CTImageStorage,), **words):
    """Ask a node for an association."""
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(Verification)
    for sop_class in contexts:
        entity.add_requested_context(sop_class, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
    return entity.associate("127.0.0.1", port, ae_title=called, **words)


def push(port: int, files: list[Path], **words) -> list[int]:
    """Send files by C-STORE; returns the status of each."""
    with PUSHING:
        association = call(port, **words)
        assert association.is_established
        try:
            return [association.send_c_store(file).Status for file in files]
        finally:
            association.release()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)
