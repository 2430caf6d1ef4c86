"""Train segmentation networks on your own CT and MR scans, and segment DICOM and NIfTI with them.

>>> import medseg
>>> model = medseg.load_model("runs/liver/model")               # doctest: +SKIP
>>> prediction = medseg.segment("scan.nii.gz", model)           # doctest: +SKIP
>>> prediction.mask.array.shape                                 # doctest: +SKIP
(512, 512, 120)

The names below are loaded when they are first used: importing medseg costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.inference.segment import segment as segment
    from medseg.networks.model import load_model as load_model
    from medseg.training.run import run_training as train

__all__ = ["load_model", "segment", "train"]

HOMES = {
    "load_model": ("medseg.networks.model", "load_model"),
    "segment": ("medseg.inference.segment", "segment"),
    "train": ("medseg.training.run", "run_training"),
}
"""Where each public name lives."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'medseg' has no attribute {name!r}")
    module, attribute = HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
