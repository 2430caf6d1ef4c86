"""A torch network as a file for ONNX Runtime or OpenVINO, with 8-bit convolutions where asked for.

Both come from one ONNX graph, because OpenVINO reads it as well: `torch.onnx` writes it for one window of the plan's
patch, and ONNX Runtime's quantiser puts 8-bit numbers around its convolutions (static, per-channel weights, uint8
activations whose ranges are measured on windows; Jacob et al., CVPR 2018). The first convolution and the ones that
make logits stay as they are: they are cheap, and their rounding would be the input's and the output's. So do
transposed convolutions, which neither runtime computes with 8 bits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import ModelError
from medseg.export.windows import Window
from medseg.networks.runtimes import silent_openvino
from medseg.plan import Plan

OPSET = 20
"""Version of ONNX's operators; both runtimes have had it since 2024."""

EXPORTERS = ("onnx", "onnxscript", "onnxruntime")
"""Modules that exporting needs, whichever runtime it is for."""


class _Logits(nn.Module):
    """A network that answers with its finest logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image).logits
        return logits


def check_exporters() -> None:
    """Refuse to export where a package is missing; raises `ModelError`."""
    missing = [module for module in EXPORTERS if find_spec(module) is None]
    if missing:
        raise ModelError(f"{', '.join(missing)} not installed, which exporting needs: pip install 'medseg[onnx]'")


def write_onnx(network: nn.Module, plan: Plan, path: Path) -> None:
    """Write a network as ONNX for one window of the plan's patch, float32.

    Raises
    ------
    ModelError
        If it has layers that ONNX knows nothing of.
    """
    window = torch.from_numpy(network_window(np.zeros((len(plan.channels), *plan.patch), np.float32), plan))
    try:
        with _quiet():
            torch.onnx.export(
                _Logits(network).eval(),
                (window,),
                path,
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ModelError(
            f"the network {plan.network.name} can't be written as ONNX ({type(error).__name__}); export a unet"
        ) from error


def quantise(path: Path, quantised: Path, windows: Sequence[Window], plan: Plan) -> None:
    """Write an ONNX network again, its convolutions with 8-bit numbers whose ranges the windows show."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        waiting = iter(windows)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            window = next(self.waiting, None)
            return None if window is None else {"image": network_window(window, plan)}

    graph = onnx.load(path).graph
    with _quiet():
        quantize_static(
            path,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_delicate(graph),
        )


def write_openvino(onnx_path: Path, path: Path) -> None:
    """Write an ONNX network in OpenVINO's format; float32 weights become float16, which model folders hold anyway."""
    openvino = silent_openvino()
    openvino.save_model(openvino.Core().read_model(onnx_path), path, compress_to_fp16=True)


def network_window(window: Window, plan: Plan) -> NDArray[np.float32]:
    """Return a window (C, X, Y, Z) as the network takes it: (1, C, *spatial), in 2D without the slice axis."""
    batch = np.ascontiguousarray(window[None])
    return batch.squeeze(2 + plan.slice_axis) if plan.dimensions == 2 else batch


def _delicate(graph: Any) -> list[str]:
    """Return the names of the convolutions that read the image or make the logits."""
    images, logits = {tensor.name for tensor in graph.input}, {tensor.name for tensor in graph.output}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv" and (images.intersection(node.input) or logits.intersection(node.output))
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what exporters say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
