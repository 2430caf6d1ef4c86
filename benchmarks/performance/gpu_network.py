"""What a GPU takes for a network's windows and training steps: layout of maps, windows at once, graphs, compiling.

    python benchmarks/performance/gpu_network.py

Windows: 96³ through a U-Net of 16 to 256 features, 20 classes, bf16, without gradient, milliseconds a window. Steps:
loss and gradient of two patches of 112x112x80, 24 to 160 features, two classes; and one step of the optimiser.
"torch" is the layout of maps that torch gives them, "last" has the channels of a voxel side by side, as medseg lays
them out (`medseg.networks.layout`). Writes results/gpu_network.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from medseg.config import TrainingConfig
from medseg.labels import LabelMap
from medseg.losses.segmentation import SegmentationLoss
from medseg.networks.build import build_network
from medseg.networks.layout import lay_out
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan, Sizes
from medseg.provenance import machine, package_versions, timestamp
from medseg.training.optimisation import build_optimiser

GPU = torch.device("cuda", 0)
WINDOW, WIDE = (96, 96, 96), (16, 32, 64, 128, 256)
PATCH, NARROW = (112, 112, 80), (24, 48, 96, 160, 160)
ORGANS = LabelMap.parse({f"organ_{value}": value for value in range(1, 20)})
ATRIUM = LabelMap.parse({"left atrium": 1})


def main() -> None:
    torch.backends.cudnn.benchmark = True
    found = {"window_ms": windows(), "step_ms": steps(), "optimiser_ms": optimisers()}
    found |= {"device": torch.cuda.get_device_name(GPU), "date": timestamp(), "machine": machine()}
    result = Path(__file__).parent / "results" / "gpu_network.json"
    result.write_text(json.dumps({**found, "versions": package_versions()}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def windows() -> dict[str, float]:
    """Return the milliseconds of a window, by layout and windows at once; captured as a graph, and compiled."""
    times: dict[str, float] = {}
    for layout in ("torch", "last"):
        for batch in (1, 2, 4, 8):
            network, image = make(WINDOW, WIDE, ORGANS, layout, batch)
            forward = answering(network.eval(), image)
            times[f"{layout}, {batch} at once"] = timed(forward) / batch
            if batch == 4:
                times[f"{layout}, {batch} at once, graph"] = timed(captured(forward)) / batch
                network.compile()
                times[f"{layout}, {batch} at once, compiled"] = timed(forward) / batch
    return rounded(times)


def steps() -> dict[str, float]:
    """Return the milliseconds of loss and gradient by layout, plain and compiled, and the seconds of compiling."""
    times: dict[str, float] = {}
    for layout in ("torch", "last"):
        network, image = make(PATCH, NARROW, ATRIUM, layout, 2)
        step = learning(network.train(), image)
        times[layout] = timed(step)
        network.compile()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times[f"{layout}, seconds to compile"] = time.perf_counter() - began
        times[f"{layout}, compiled"] = timed(step)
    return rounded(times)


def optimisers() -> dict[str, float]:
    """Return the milliseconds of one step: medseg's, and AdamW a parameter at a time."""
    network, image = make(PATCH, NARROW, ATRIUM, "last", 2)
    learning(network.train(), image)()
    ours = build_optimiser(network.parameters(), TrainingConfig(optimiser="adamw"))
    one_by_one = torch.optim.AdamW(network.parameters(), foreach=False, fused=False)
    return rounded({"medseg": timed(ours.step), "a parameter at a time": timed(one_by_one.step)})


def make(
    patch: Sizes, features: tuple[int, ...], labels: LabelMap, layout: str, batch: int
) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return a network on the GPU, and images for it."""
    stages = len(features)
    plan = Plan(
        dimensions=3,
        spacing=(1, 1, 1),
        slice_axis=2,
        patch=patch,
        batch=batch,
        channels=("image",),
        normalisation=(ChannelNormalisation(kind="zscore"),),
        mirror=(False, False, False),
        network=NetworkPlan(
            features=features,
            kernels=((3, 3, 3),) * stages,
            strides=((1, 1, 1), *[(2, 2, 2)] * (stages - 1)),
        ),
    )
    network = build_network(plan, labels.outputs).to(GPU)
    if layout == "last":
        lay_out(network, torch.bfloat16)
    return network, torch.randn(batch, 1, *patch, device=GPU)


def answering(network: torch.nn.Module, image: torch.Tensor) -> Callable[[], torch.Tensor]:
    @torch.no_grad()
    def forward() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            logits: torch.Tensor = network(image).logits
        return logits.to(torch.float32, memory_format=torch.contiguous_format)

    return forward


def learning(network: torch.nn.Module, image: torch.Tensor) -> Callable[[], None]:
    loss = SegmentationLoss(ATRIUM, TrainingConfig())
    target = torch.randint(0, 2, (len(image), *PATCH), device=GPU, dtype=torch.uint8)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            output = network(image)
        loss(output, target).total.backward()

    return step


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """Return what replays the GPU's share of some work."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def timed(work: Callable[[], object], device: torch.device = GPU, count: int = 10) -> float:
    """Return the mean milliseconds of some work, behind three to warm up."""
    for _ in range(3):
        work()
    wait_for(device)
    began = time.perf_counter()
    for _ in range(count):
        work()
    wait_for(device)
    return 1e3 * (time.perf_counter() - began) / count


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounded(times: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in times.items()}


if __name__ == "__main__":
    main()
