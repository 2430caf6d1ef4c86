"""Segment one scan from Python."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from medseg.catalog.channels import join_channels, with_stacks
from medseg.catalog.index import index_scans
from medseg.config import InferenceConfig, IngestConfig
from medseg.errors import ReasonCode, ScanError
from medseg.inference.hardware import choose_device, fit_threads, keep_memory
from medseg.inference.predictor import Prediction, Predictor
from medseg.io.scan import read_case
from medseg.networks.model import Model, load_model
from medseg.volume import Volume


def segment(
    scan: str | PathLike[str] | Volume,
    model: str | PathLike[str] | Model,
    *,
    config: InferenceConfig | None = None,
    device: str = "auto",
    ingest: IngestConfig | None = None,
) -> Prediction:
    """Segment one scan; the mask of the result lies on the scan's own grid.

    Parameters
    ----------
    scan : a NIfTI file, the folder of one DICOM series or of one scan's channels (``scan_0000.nii.gz``, ...), or a
        volume.
    model : model folder, or a loaded model: load it once with `load_model` to segment several scans.
    config : how the model is applied; default: as it was validated.
    device : auto, cpu, cuda, or one GPU such as cuda:1.
    ingest : what is done about faults of the scan's files; default: `IngestConfig`'s defaults.

    Raises
    ------
    MedsegError
        If scan or model can't be used, or the folder holds more than one scan.
    """
    keep_memory()
    fit_threads()
    chosen = choose_device(device)
    loaded = model if isinstance(model, Model) else load_model(Path(model), chosen, "auto")
    volume = scan if isinstance(scan, Volume) else read_one(Path(scan), ingest, len(loaded.plan.channels))
    return Predictor(loaded, config, chosen).predict(volume)


def read_one(path: Path, ingest: IngestConfig | None = None, channels: int = 1) -> Volume:
    """Read the only scan at `path`; raises `ScanError` where there is none, or more than one.

    Parameters
    ----------
    channels : that one file may hold along a fourth axis, or as many files singly.
    """
    catalog = with_stacks(index_scans(path, policy=ingest), channels)
    scans = join_channels(catalog.with_status("accepted"), channels)
    if len(scans) == 1:
        if not scans[0].has(channels):
            raise ScanError(ReasonCode.CHANNELS_MISMATCH, scans[0].mismatch(channels))
        return read_case(scans[0].case())[0]
    if scans:
        message = f"{path} holds {len(scans)} scans; name one of them, or use `medseg segment` for a folder"
        raise ScanError(ReasonCode.AMBIGUOUS_SERIES, message)
    refused = catalog.with_status("refused")
    if refused:
        raise ScanError(refused[0].reason or ReasonCode.UNREADABLE, refused[0].message)
    raise ScanError(ReasonCode.NOT_A_SCAN, f"{path} holds no scan")
