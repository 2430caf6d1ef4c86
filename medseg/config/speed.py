"""How much time a mask may take: named sets of what `InferenceConfig` decides.

A set holds only what it changes, so that `balanced` is the model as it was validated, and what a user says explicitly
counts before any of it. The resolution is no part of this: a network sees anatomy at the spacing that it was trained
at, and a coarser model is a model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Speed = Literal["fast", "balanced", "accurate"]

SPEEDS: Mapping[Speed, Mapping[str, Any]] = MappingProxyType(
    {
        "fast": {"overlap": 0.25, "flips": False, "precision": "auto"},
        "balanced": {},
        "accurate": {"overlap": 0.625, "flips": True, "precision": "float32"},
    }
)
"""A CT of 512x512x256 at 0.8x0.8x1.5 mm, planned at 1.5 mm with windows of 96³, has 64 windows at an overlap of 0.25,
125 at 0.5 and 216 at 0.625. Mirroring along three axes is eight times the work, float32 1.7 times where the processor
has bf16. What each level gives is measured by benchmarks/performance/speed_levels.py."""


def changes(speed: Speed, overlap: float) -> dict[str, Any]:
    """Return what a level changes of a model whose windows overlap so much; fast makes it no more, accurate no less.

    Examples
    --------
    >>> changes("accurate", 0.75)["overlap"], changes("accurate", 0.5)["overlap"], changes("fast", 0.1)["overlap"]
    (0.75, 0.625, 0.1)
    """
    level = dict(SPEEDS[speed])
    if "overlap" in level:
        level["overlap"] = (min if speed == "fast" else max)(overlap, level["overlap"])
    return level
