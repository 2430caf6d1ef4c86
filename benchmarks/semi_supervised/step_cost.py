"""What a step with unlabelled scans costs, against the supervised step on the same batch: each ingredient of its own.

    OMP_NUM_THREADS=1 python benchmarks/semi_supervised/step_cost.py

CPU seconds of loss, gradient and averaged teacher for two random patches of the hippocampus' plan, in bf16; the
optimiser is the same in all, and patches are prepared beside the step. The ways take turns; medians of the rounds, as
ratios to the supervised step. Writes results/step_cost.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from arms import ARMS, CONFIGS, NETWORK
from lightning_fabric import Fabric

from medseg.config import load_config
from medseg.data.batches import Batch, Unlabelled
from medseg.labels import LabelMap
from medseg.networks.build import build_network
from medseg.networks.layout import lay_out
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.provenance import machine, package_versions
from medseg.training.lessons import build_method
from medseg.training.optimisation import averaged

ROUNDS = 9
PATCH = (40, 56, 40)
LABELS = LabelMap.parse({"anterior": 1, "posterior": 2})
MEASURED = ("supervised", "mix_teacher", "mix_teacher_gate", "mix_teacher_prototypes", "mix_teacher_affinity")


def main() -> None:
    steps = {arm: step_of(arm) for arm in MEASURED}
    seconds: dict[str, list[float]] = {arm: [] for arm in steps}
    for _ in range(ROUNDS):
        for arm, step in steps.items():
            began = time.process_time()
            step()
            seconds[arm].append(time.process_time() - began)
    medians = {arm: median(times[1:]) for arm, times in seconds.items()}
    ratios = {arm: round(value / medians["supervised"], 3) for arm, value in medians.items()}
    record = {"cpu_s": medians, "ratio": ratios, "rounds": ROUNDS, "machine": machine(), "versions": package_versions()}
    (Path(__file__).parent / "results" / "step_cost.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(ratios, indent=2))


def step_of(arm: str) -> Callable[[], None]:
    """Return what does one step of an arm, past the steps that see labelled scans alone."""
    config = load_config(CONFIGS["hippocampus"], [*NETWORK, *ARMS[arm]])
    plan = hippocampus_plan()
    network = lay_out(build_network(plan, LABELS.outputs), torch.bfloat16)
    mean = averaged(network, 0.999)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    teacher = torch.no_grad()(fabric.setup_module(mean, move_to_device=False))
    trainee = fabric.setup_module(network)
    method, batch = build_method(config, LABELS, plan, teacher), random_batch(mixed=arm != "supervised")

    def step() -> None:
        loss = method.step(trainee, batch, 0.9)["loss"]
        fabric.backward(loss)
        network.zero_grad(set_to_none=True)
        mean.update_parameters(network)

    return step


def hippocampus_plan() -> Plan:
    network = NetworkPlan(
        name="unet", features=(16, 32, 64, 128), kernels=((3, 3, 3),) * 4, strides=((1, 1, 1), *[(2, 2, 2)] * 3)
    )
    return Plan(
        dimensions=3,
        spacing=(1, 1, 1),
        slice_axis=2,
        patch=PATCH,
        batch=2,
        channels=("image",),
        normalisation=(ChannelNormalisation(kind="zscore"),),
        mirror=(False, False, False),
        network=network,
    )


def random_batch(*, mixed: bool) -> Batch:
    """Return two patches; with as many unlabelled ones and boxes to paste if `mixed`."""
    torch.manual_seed(0)
    image, weak = torch.randn(2, 2, 1, *PATCH)
    target = torch.randint(0, 3, (2, *PATCH), dtype=torch.uint8)
    if not mixed:
        return Batch(image=image, target=target)
    paste = torch.zeros(2, *PATCH, dtype=torch.bool)
    paste[:, 5:30, 5:40, 5:30] = True
    known = Unlabelled(weak=weak, strong=weak, target=target, weight=torch.ones(2, *PATCH), paste=paste)
    return Batch(image=image, target=target, unlabelled=known)


if __name__ == "__main__":
    main()
