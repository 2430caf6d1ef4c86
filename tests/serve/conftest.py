"""A network that finds what is bright, its model folder, studies, and the server over them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.config import BatchConfig, ExperimentConfig, InferenceConfig
from medseg.geometry import Grid
from medseg.io.nifti import write_volume
from medseg.labels import LabelMap
from medseg.networks.build import build_network
from medseg.networks.model import Model, save_model
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.serve.app import make_app
from medseg.serve.server import logging_to
from medseg.serve.service import Service, open_service
from medseg.serve.settings import LOG_FILE, Limits, ServeSettings
from medseg.serve.tokens import Tokens
from medseg.volume import Volume

LABELS = LabelMap.parse({"liver": 2, "tumour": 5})
"""Values with gaps: clients number them 1 and 2."""

SHAPE = (20, 18, 12)
CASES = ("alpha", "beta", "gamma", "delta", "epsilon")
NAME = "organs"


def plan() -> Plan:
    return Plan.model_validate(
        {
            "dimensions": 3,
            "spacing": (1.5, 1.5, 2.0),
            "slice_axis": 2,
            "patch": (16, 16, 8),
            "batch": 2,
            "channels": ("ct",),
            "normalisation": (ChannelNormalisation(kind="clip", low=-100, high=300, mean=60, std=60),),
            "mirror": (False, False, False),
            "network": NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
        }
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A network with weights as they were drawn: it says something of everything."""
    torch.manual_seed(3)
    network = build_network(plan(), LABELS.outputs).eval()
    folder = tmp_path_factory.mktemp("model") / "model"
    inference = InferenceConfig(overlap=0.25, precision="float32")
    save_model(Model((network,), plan(), LABELS, name=NAME, inference=inference), folder)
    return folder


def scan_of(seed: int) -> Volume:
    """A bright block in noise, on an oblique grid."""
    rng = np.random.default_rng(seed)
    array = rng.normal(0, 20, SHAPE)
    array[truth_of(seed) > 0] += 150
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, 1.5, 2.0])
    affine[:3, 3] = [40, -31, 7]
    return Volume(array.round().astype(np.float32)[None], Grid(SHAPE, affine))


def truth_of(seed: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    start = 3 + seed % 4
    mask[start : start + 9, 4:13, 3:9] = 2
    mask[start + 3 : start + 6, 7:10, 5:7] = 5
    return mask


@pytest.fixture(scope="session")
def studies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for seed, case in enumerate(CASES):
        write_volume(folder / f"{case}.nii.gz", scan_of(seed))
    return folder


@pytest.fixture
def settings(studies, model_folder, tmp_path) -> Callable[..., ServeSettings]:
    def make(**changes: object) -> ServeSettings:
        experiment = ExperimentConfig.model_validate(
            {"training": {"steps": 2, "checkpoint_every": 50, "loader_threads": 0, "precision": "float32"}}
        )
        fields = {
            "studies": studies,
            "output": tmp_path / "served",
            "model": model_folder,
            "experiment": experiment,
            "batch": BatchConfig(key=tmp_path / "key"),
            "device": "cpu",
            "ahead": False,
            "limits": Limits(upload_mb=2, upload_seconds=5),
        }
        return ServeSettings(**{**fields, **changes})

    return make


@pytest.fixture
def opened(settings) -> Iterator[Callable[..., Service]]:
    """Return a function that opens a service; all are closed at the end."""
    with ExitStack() as stack:

        def open_one(**changes: object) -> Service:
            chosen = settings(**changes)
            chosen.output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(logging_to(chosen.output / LOG_FILE))
            return stack.enter_context(open_service(chosen))

        yield open_one


@pytest.fixture
def client(opened):
    """Return a function that opens a service without a token and gives a client of it."""
    from starlette.testclient import TestClient

    def make(tokens: Tokens | None = None, **changes: object):
        service = opened(**changes)
        client = TestClient(make_app(service, tokens), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        client.service = service
        return client

    return make


@pytest.fixture
def running(opened, tmp_path) -> Iterator[Callable[..., str]]:
    """Return a function that serves on a free port of this machine, and gives the address."""
    import uvicorn

    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def run(tokens: Tokens | None = None, **changes: object) -> str:
        config = uvicorn.Config(make_app(opened(**changes), tokens), port=0, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            threading.Event().wait(0.01)
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield run
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)
