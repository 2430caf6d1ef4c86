"""What a training step of the U-Net costs on one core: topology, memory layout, norm, arithmetic.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=34359738368 \
        python benchmarks/network_step.py benchmarks/results/network_step.json

CPU seconds of forward and backward of two patches (the optimiser adds 0.01 s), the least of three, so
that neighbours on a shared machine matter little. On two cores a step takes about half of it.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn import functional

from medseg.networks.layout import InstanceNorm3d, lay_out
from medseg.networks.unet import UNet
from medseg.plan import NetworkPlan
from medseg.provenance import machine, package_versions

PATCH = (40, 56, 40)
FEATURES = (32, 64, 128, 256)
SMALL = (32, 48, 32)

VARIANTS = {
    "as nnU-Net plans for the hippocampus, bf16": {},
    "float32": {"bf16": False},
    "bf16, maps as torch lays them out": {"lay_out": lambda network, _: network},
    "float32, maps as torch lays them out": {"bf16": False, "lay_out": lambda network, _: network},
    "no deep supervision": {"deep_supervision": False},
    "residual encoder": {"residual": True},
    "1 convolution a stage": {"convolutions": 1},
    "patch 40x48x40": {"patch": (40, 48, 40)},
    "patch 32x48x40": {"patch": (32, 48, 40)},
    "patch 32x48x32": {"patch": SMALL},
    "features 24 to 192": {"features": (24, 48, 96, 192)},
    "features 16, 64, 128, 256": {"features": (16, 64, 128, 256)},
    "features 16, 64, 128, 256, patch 32x48x32": {"features": (16, 64, 128, 256), "patch": SMALL},
    "features 16 to 128": {"features": (16, 32, 64, 128)},
    "features 16 to 128, patch 32x48x32": {"features": (16, 32, 64, 128), "patch": SMALL},
}


def step_cost(patch=PATCH, features=FEATURES, *, bf16=True, lay_out=lay_out, **topology) -> float:
    stages = len(features)
    strides = ((1, 1, 1), *[(2, 2, 2)] * (stages - 1))
    plan = NetworkPlan(features=features, kernels=((3, 3, 3),) * stages, strides=strides, **topology)
    network = lay_out(UNet(1, 3, plan), torch.bfloat16 if bf16 else torch.float32)
    image = torch.randn(2, 1, *patch)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
            output = network(image)
        sum(logits.float().square().mean() for logits in (output.logits, *output.coarse)).backward()
        network.zero_grad()

    return cpu_seconds(step)


def norm_cost(norm: Callable[[torch.Tensor], torch.Tensor], layout: torch.memory_format) -> float:
    maps = torch.randn(2, 32, *PATCH).to(torch.bfloat16).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.ones_like(maps)
    return cpu_seconds(lambda: norm(maps).backward(gradient))


def cpu_seconds(work: Callable[[], None]) -> float:
    times = []
    for _ in range(4):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return round(min(times[1:]), 4)


def main(target: Path) -> None:
    torch.set_num_threads(1)
    results = {"machine": machine(), "versions": package_versions(), "step_cpu_s": {}, "norm_cpu_s": {}}
    for name, options in VARIANTS.items():
        results["step_cpu_s"][name] = step_cost(**options)
        print(f"{results['step_cpu_s'][name]:8.3f} s  {name}", flush=True)
    scale, shift = torch.ones(32, requires_grad=True), torch.zeros(32, requires_grad=True)
    ours = InstanceNorm3d(32, affine=True)
    norms = {
        "instance norm": lambda maps: functional.instance_norm(maps, weight=scale, bias=shift),
        "instance norm in any layout": ours,
        "group norm, one group a channel": lambda maps: functional.group_norm(maps, 32, scale, shift),
    }
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        for name, norm in norms.items():
            key = f"{name}, {str(layout).removeprefix('torch.')}"
            results["norm_cpu_s"][key] = norm_cost(norm, layout)
            print(f"{results['norm_cpu_s'][key]:8.4f} s  {key}", flush=True)
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
