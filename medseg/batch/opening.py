"""Make a worker: load the model on the device, and say what the run must know of both."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from medseg.batch.formats import Formats
from medseg.batch.job import Job
from medseg.batch.task import Facts
from medseg.batch.worker import Worker
from medseg.config import InferenceConfig, SegmentConfig
from medseg.inference.hardware import choose_device, fit_threads, keep_memory, limit_memory, usable_memory
from medseg.inference.predictor import Predictor
from medseg.networks.model import load_model, model_digest
from medseg.provenance import digest_json, package_versions

if TYPE_CHECKING:
    from medseg.batch.job import Picture

ROOM_SHARE = 4
"""The scans under way may take one of so many parts of a worker's memory; preparing and stitching need the rest."""


def open_worker(job: Job, picture: Picture | None) -> tuple[Worker, Facts]:
    """Load a model and make its worker; everything wrong with model or device shows here.

    Raises
    ------
    ModelError, ConfigError, LabelError
        If the model folder can't be used, the device is not there, a lesion is no label.
    """
    config = job.config
    keep_memory()
    fit_threads(max(1, fit_threads() // job.workers))
    device = choose_device(config.device, job.number)
    if config.memory_limit_gb:
        import scipy.linalg  # noqa: F401 - its OpenBLAS, if loaded beyond the limit, tries for ever to get its memory

        limit_memory(config.memory_limit_gb)
    model = load_model(job.model, device, config.backend)
    settings, formats = config.inference(model.inference), Formats.of(config)
    worker = Worker(
        predictor=Predictor(model, settings, device),
        folder=job.folder,
        model_digest=model_digest(job.model),
        settings_digest=_settings_digest(config, settings, formats),
        picture=picture,
        redo=config.redo,
        formats=formats,
        room=int((config.memory_limit_gb or 0) * 1e9 or usable_memory() / job.workers) // ROOM_SHARE,
    )
    return worker, _facts_of(worker)


def _facts_of(worker: Worker) -> Facts:
    model, device = worker.predictor.model, worker.predictor.device
    return Facts(
        name=model.name,
        digest=worker.model_digest,
        channels=len(model.plan.channels),
        labels=worker.labels,  # a lesion that is no label ends the run here
        reference=model.reference,
        inference=worker.predictor.config,
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        gpus=torch.cuda.device_count() if device.type == "cuda" else 0,
        settings=worker.settings_digest,
        runtime=worker.predictor.runtime,
    )


def _settings_digest(config: SegmentConfig, settings: InferenceConfig, formats: Formats) -> str:
    """Return the digest of all that decides a result beside scan and model."""
    policies = config.ingest.model_dump(mode="json")
    decisive: list[object] = [settings.model_dump(mode="json"), asdict(formats), policies, package_versions(["medseg"])]
    if config.backend != "auto":
        decisive.append(config.backend)
    return digest_json(decisive)
