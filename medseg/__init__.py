"""Train segmentation networks on your own CT and MR scans, and segment DICOM and NIfTI with them.

>>> import medseg
>>> model = medseg.load_model("runs/liver/model")               # doctest: +SKIP
>>> prediction = medseg.segment("scan.nii.gz", model)           # doctest: +SKIP
>>> prediction.mask.array.shape                                 # doctest: +SKIP
(512, 512, 120)

The names below are loaded when they are first used: importing medseg costs nothing.
"""

from __future__ import annotations

import os
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

SPINS = "10000"
"""Turns that torch's threads (libgomp's) wait for each other awake, before they sleep.

libgomp waits for 300,000, which costs other work on the same cores, and medseg's own threads beside the network. With
two busy processes beside, a large window takes half the time with 10,000, a small one a fifth; with none, the same. To
sleep at once (``OMP_WAIT_POLICY=passive``) takes 5 to 40 % longer there. (Intel Xeon, 2 cores, torch 2.13, November
2026.) It is read when torch is loaded, and what the environment says already goes before.
"""

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'medseg' has no attribute {name!r}")
    module, attribute = HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
