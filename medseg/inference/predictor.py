"""One scan to one mask on its own grid: prepare, infer (slide and restore), clean up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor, nn

from medseg.config import InferenceConfig
from medseg.errors import ReasonCode, ScanError
from medseg.inference.channels_last import channels_last
from medseg.inference.forward import EnsembleForward, stream_scan, streamed_axis, windows_at_once
from medseg.inference.ladder import Rung, climb_down, ladder
from medseg.inference.restore import Restored, Restorer
from medseg.inference.uncertainty import AgreementMeter
from medseg.labels import LabelMap
from medseg.measures.features import TargetUncertainty
from medseg.networks.model import Model
from medseg.networks.runtimes import ExportedNetwork
from medseg.plan import Plan
from medseg.postprocessing.clean import apply
from medseg.preprocessing.prepare import Prepared, prepare_image
from medseg.volume import Mask, Volume


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says about a scan.

    Attributes
    ----------
    mask : label values on the scan's own grid.
    confidence : mean probability of the winning output within the predicted foreground, before
        post-processing; 1 where nothing was found.
    timings : seconds of what was done: prepare, forward, stitch, restore, postprocess. On a GPU one
        may wait for work that an earlier one has started.
    uncertainty : how sure the network was of each target, before post-processing.
    rung : how much memory could be had for it.
    """

    mask: Mask
    confidence: float
    timings: dict[str, float]
    uncertainty: dict[str, TargetUncertainty] = field(default_factory=dict)
    rung: Rung = Rung.FULL


@dataclass(slots=True)
class Stopwatch:
    """Adds up the seconds of named stages; a stage within another is not counted twice."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time, less that of stages within it."""
        began, inner = perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            elsewhere = sum(self.seconds.values()) - inner
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - began - elsewhere


class Predictor:
    """A model ready to segment scans, one after the other.

    `predict` does all; its three parts are there for whoever has many scans: `infer` alone needs the device, so that
    the next scan may be prepared and the last one cleaned meanwhile, in other threads.

    Parameters
    ----------
    model : its networks are moved to the device and put into evaluation mode.
    config : None: as the model was validated.
    device : None: the CPU, which networks for other runtimes than torch compute on, whatever is asked for.
    """

    def __init__(self, model: Model, config: InferenceConfig | None = None, device: torch.device | None = None) -> None:
        exported = [network.runtime for network in model.networks if isinstance(network, ExportedNetwork)]
        self.runtime = exported[0] if exported else "torch"
        self.config = config or model.inference
        self.device = torch.device("cpu") if device is None or exported else device
        networks = (network.to(self.device).eval() for network in model.networks)
        # copied into the layout for CPUs once, not with every scan
        self.model = replace(model, networks=tuple(channels_last(network, self.device) for network in networks))

    def predict(self, volume: Volume) -> Prediction:
        """Segment one scan; raises `ScanError` as `prepare` does."""
        watch = Stopwatch()
        with watch.stage("prepare"):
            prepared = self.prepare(volume)
        prediction = self.infer(prepared)
        with watch.stage("postprocess"):
            cleaned = self.clean(prediction)
        return replace(cleaned, timings=prediction.timings | watch.seconds)

    def prepare(self, volume: Volume) -> Prepared:
        """Return the scan as the network sees it, on the CPU; raises as `prepare_scan` does."""
        return prepare_scan(volume, self.model)

    def infer(self, prepared: Prepared) -> Prediction:
        """Return the mask of a prepared scan as the network draws it, on the scan's own grid.

        Where memory is short it is done in steps that need less (`medseg.inference.ladder`).
        """
        watch = Stopwatch()
        rungs = ladder(windows_at_once(self.config, self.model.plan, self.device), self.device.type)
        restored, rung = climb_down(lambda rung: self._segment(prepared, watch, rung), rungs)
        return Prediction(restored.mask, restored.confidence, watch.seconds, restored.uncertainty, rung)

    def clean(self, prediction: Prediction) -> Prediction:
        """Return a prediction with the model's post-processing applied to its mask, on the CPU."""
        rules, mask = self.model.postprocessing, prediction.mask
        if not rules:
            return prediction
        return replace(prediction, mask=Mask(apply(mask.array, mask.grid, rules, self.model.labels), mask.grid))

    def _segment(self, prepared: Prepared, watch: Stopwatch, rung: Rung) -> Restored:
        model, agreement = self.model, AgreementMeter(self.model.labels)
        config = self.config if rung is Rung.FULL else self.config.model_copy(update={"window_batch": 1})
        device = torch.device("cpu") if rung is Rung.CPU else self.device
        stitching = torch.device("cpu") if rung is Rung.STITCH_ON_CPU else device
        with _placed(model.networks, device, self.device):
            forward = EnsembleForward(model.networks, model.plan, config, device, agreement)
            return _segment(forward, prepared, model.labels, config, watch, stitching)


def prepare_scan(volume: Volume, model: Model) -> Prepared:
    """Return a scan as a model's networks see it.

    Raises
    ------
    ScanError
        If the scan states another modality than those that the model learnt from, its channels are not the
        model's, or it holds voxels that are not numbers.
    """
    known = model.modalities
    if known and volume.modality and volume.modality not in known:
        raise ScanError(
            ReasonCode.MODALITY_MISMATCH,
            f"the scan is {volume.modality}, but the model learnt from {' and '.join(known)}; take a model for "
            f"{volume.modality}, or, if the header is wrong, take what `medseg convert` makes of the scan",
        )
    return prepare_image(volume, model.plan)


def segment_prepared(
    networks: Sequence[nn.Module],
    prepared: Prepared,
    plan: Plan,
    labels: LabelMap,
    config: InferenceConfig,
    device: torch.device,
) -> Restored:
    """Segment a prepared scan with plain networks, as `Predictor` does before post-processing.

    Parameters
    ----------
    networks : on `device`, in evaluation mode; their logits are averaged.

    Returns
    -------
    The mask on the scan's own grid, and how sure the networks were of it.
    """
    forward = EnsembleForward(networks, plan, config, device, AgreementMeter(labels))
    return _segment(forward, prepared, labels, config, Stopwatch(), device)


@contextmanager
def _placed(networks: Sequence[nn.Module], device: torch.device, home: torch.device) -> Iterator[None]:
    """Have networks on another device for a while."""
    if device == home:
        yield
        return
    try:
        for network in networks:
            network.to(device)
        yield
    finally:
        for network in networks:
            network.to(home)


def _segment(
    forward: EnsembleForward,
    prepared: Prepared,
    labels: LabelMap,
    config: InferenceConfig,
    watch: Stopwatch,
    stitching: torch.device,
) -> Restored:
    plan = forward.plan

    def timed(windows: Tensor) -> Tensor:
        with watch.stage("forward"):
            return forward(windows).to(stitching)

    stitched = stream_scan(timed, prepared, plan, config, outputs=labels.outputs, device=stitching)
    restorer = Restorer(prepared.grid, prepared.source_grid, labels, streamed_axis(prepared, plan))
    with torch.inference_mode(), watch.stage("stitch"):
        for slab in stitched:
            with watch.stage("restore"):
                restorer.add(slab.start, slab.logits)
        restored = restorer.finish()
    agreement = forward.agreement.finish() if forward.agreement else {}
    uncertainty = {
        target: doubt.model_copy(update={"agreement": agreement.get(target)})
        for target, doubt in restored.uncertainty.items()
    }
    return replace(restored, uncertainty=uncertainty)
