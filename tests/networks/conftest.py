"""Plans small enough that a network of them trains in milliseconds."""

from collections.abc import Callable

import pytest
import torch

from medseg.plan import ChannelNormalisation, NetworkPlan, Plan


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """A plan of two stages; keyword arguments of the network and of the plan replace its fields."""

    def make(dimensions: int = 3, channels: int = 1, patch: tuple[int, int, int] | None = None, **network) -> Plan:
        halving = (2, 2, 2) if dimensions == 3 else (2, 2, 1)
        kernel = (3, 3, 3) if dimensions == 3 else (3, 3, 1)
        stages = len(network.get("features", (4, 8)))
        topology = {
            "features": (4, 8),
            "kernels": (kernel,) * stages,
            "strides": ((1, 1, 1), *[halving] * (stages - 1)),
            **network,
        }
        return Plan(
            dimensions=dimensions,
            spacing=(1.0, 1.0, 1.0),
            slice_axis=2,
            patch=patch or ((8, 8, 8) if dimensions == 3 else (8, 8, 1)),
            batch=2,
            channels=tuple(f"channel {number}" for number in range(channels)),
            normalisation=(ChannelNormalisation(kind="zscore"),) * channels,
            mirror=(True, True, True),
            network=NetworkPlan(**topology),
        )

    return make
