"""Settings of all tests, and a small plan."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from hypothesis import settings

from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

# No deadline: on a busy machine a test that takes a millisecond may wait for half a second.
settings.register_profile("medseg", deadline=None, max_examples=60)
# CI judges a change, not the luck of a draw; new examples are looked for on developers' machines.
settings.register_profile("ci", settings.get_profile("medseg"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "medseg")
# A shell ignores Ctrl-C for what it starts in the background, and so would every command that a test stops by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_plan() -> Callable[..., Plan]:
    """A 3D plan for one clipped channel (air -1, scale 1); any field may be given."""

    def make(**changes: object) -> Plan:
        fields = {
            "dimensions": 3,
            "spacing": (1.0, 1.0, 1.0),
            "slice_axis": 2,
            "patch": (8, 8, 8),
            "batch": 2,
            "channels": ("CT",),
            "normalisation": (ChannelNormalisation(kind="clip", low=-1, high=1, mean=0, std=1),),
            "mirror": (True, True, True),
            "network": NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (1, 1, 1))),
        }
        return Plan.model_validate({**fields, **changes})

    return make
