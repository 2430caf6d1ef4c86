"""Networks that ONNX Runtime and OpenVINO compute, behind the contract of every other network.

They were exported for one window of the plan's patch, and a batch is computed window by window: with two cores a
batch of two is no faster than two windows, and a fixed shape lets the runtimes choose kernels and memory once.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import ModelError
from medseg.networks.base import SegmentationNetwork
from medseg.outputs import NetworkOutput
from medseg.text import first_line

LETTERS = 200
"""Most letters of a runtime's own words in a message."""


class ExportedNetwork(SegmentationNetwork):
    """A network that has no torch weights: it answers, and learns nothing more.

    Attributes
    ----------
    runtime : as `medseg.networks.exported.Runtime` names it.
    shapes : of the one window that it takes, (1, C, *spatial), and of its logits, (1, K, *spatial).
    """

    runtime: ClassVar[str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return logits (B, K, *spatial) of windows (B, C, *spatial) of the exported size, on the image's device."""
        windows = image.detach().float().cpu().numpy()
        logits = [self.answer(np.ascontiguousarray(window[None])) for window in windows]
        return NetworkOutput(torch.from_numpy(np.concatenate(logits)).to(image.device))

    @abstractmethod
    def answer(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (1, K, *spatial) of one window (1, C, *spatial); the array is the caller's."""

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield nothing: nothing can be trained."""
        return iter(())


class OnnxNetwork(ExportedNetwork):
    """A network in ONNX format, computed by ONNX Runtime on the CPU with torch's number of threads.

    Raises
    ------
    ModelError
        If the runtime can't use the file.
    """

    runtime = "onnx"

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # its Windows builds would report events
        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of several kinds, which share no base
            raise ModelError(f"{path}: ONNX Runtime can't use this network ({first_line(error)[:LETTERS]})") from None
        self.shapes = tuple(self.session.get_inputs()[0].shape), tuple(self.session.get_outputs()[0].shape)

    def answer(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (1, K, *spatial) of one window (1, C, *spatial)."""
        (logits,) = self.session.run(None, {self.session.get_inputs()[0].name: window})
        return np.asarray(logits, np.float32)


class OpenVinoNetwork(ExportedNetwork):
    """A network in OpenVINO's format, computed on the CPU with torch's number of threads.

    Parameters
    ----------
    bf16 : multiply bf16 numbers where the network has no 8-bit ones.

    Raises
    ------
    ModelError
        If the runtime can't use the file.
    """

    runtime = "openvino"

    def __init__(self, path: Path, *, bf16: bool) -> None:
        super().__init__()
        openvino = silent_openvino()
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            compiled = openvino.Core().compile_model(path, "CPU", settings)
        except Exception as error:
            raise ModelError(f"{path}: OpenVINO can't use this network ({first_line(error)[:LETTERS]})") from None
        self.shapes = tuple(compiled.input(0).shape), tuple(compiled.output(0).shape)
        self.request: Any = compiled.create_infer_request()

    def answer(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (1, K, *spatial) of one window (1, C, *spatial)."""
        logits = self.request.infer({0: window}, share_inputs=True)[0]
        return np.array(logits, np.float32)


def silent_openvino() -> Any:
    """Import OpenVINO without its telemetry, and return it.

    OpenVINO's package reports each import over the network (2026.4), unless its telemetry package can't be imported:
    then it falls back to a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")
