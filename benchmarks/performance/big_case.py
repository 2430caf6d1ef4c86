"""Where the time of a large scan goes: `medseg segment` on a synthetic CT, stage by stage, against the bare network.

    python benchmarks/performance/big_case.py                                       # 512x512x256, 20 classes, 96³
    python benchmarks/performance/big_case.py --shape 256 256 128                   # an eighth of it, seconds
    python benchmarks/performance/big_case.py --shape 512 512 600 --classes 118 --features 8 16 32 64 --steps 40

The scan is a body (40 HU, noise of 10) with an ellipsoid a class, 0.8x0.8x1.5 mm, int16 .nii.gz; the plan is 1.5 mm,
windows of 96³, a U-Net of two convolutions a stage. It is trained on the scan for some minutes: what random weights
decide is noise, of which restoring and measuring make far more work than of anatomy.

Processes one after the other: the network alone on the very batches that segmenting feeds it; `medseg segment` in one
process, its time and peak memory as the system counts them; the network alone again; and the network alone as torch
lays out its maps, without medseg's layout. Writes results/big_case.json, or what --output names.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from medseg.config import InferenceConfig, TrainingConfig
from medseg.geometry import Grid
from medseg.inference.forward import EnsembleForward, stream_scan
from medseg.inference.hardware import choose_dtype, fit_threads, keep_memory
from medseg.inference.window import tile
from medseg.io.nifti import read_nifti, write_volume
from medseg.labels import LabelMap
from medseg.losses.segmentation import SegmentationLoss
from medseg.networks.build import build_network
from medseg.networks.model import Model, load_model, save_model
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan, Sizes
from medseg.preprocessing.prepare import plan_grid, prepare_image, prepare_mask
from medseg.provenance import machine, package_versions
from medseg.volume import Mask, Volume

HERE = Path(__file__).parent
SPACING = (0.8, 0.8, 1.5)
CPU = torch.device("cpu")
STEPS, RATE, PATCH = 400, 3e-3, 48
"""Of the short training: steps unless told otherwise, first learning rate, edge of its patches."""

STAGES = ("read", "prepare", "forward", "stitch", "restore", "postprocess", "measure", "write")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_case_options(parser)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the short training")
    parser.add_argument("--folder", type=Path, help="keep scan, model and results there, and use what is there already")
    parser.add_argument("--no-forward", action="store_true", help="leave out the network alone")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "big_case.json")
    parser.add_argument("--forward-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.forward_of:
        print(json.dumps(time_forward(arguments.forward_of, plain=arguments.plain)))
        return
    with TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "model").exists():
            make_case(folder, **case_options(arguments), precision=arguments.precision, steps=arguments.steps)
        result = measure(folder, forward=not arguments.no_forward)
    result |= {"shape": arguments.shape, "classes": arguments.classes, "features": arguments.features}
    result |= {"machine": machine(), "versions": package_versions()}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


def add_case_options(parser: argparse.ArgumentParser, classes: int = 20) -> None:
    """Let a script's caller say what scan and network are like."""
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 256])
    parser.add_argument("--classes", type=int, default=classes, help="with the background")
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--window", type=int, default=96)


def case_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what `make_case` takes of the options of `add_case_options`."""
    options = {name: getattr(arguments, name) for name in ("classes", "features", "window")}
    return {"shape": tuple(arguments.shape), **options}


def make_case(
    folder: Path,
    *,
    shape: Sizes,
    classes: int,
    features: Sequence[int],
    window: int,
    precision: str = "auto",
    steps: int = STEPS,
) -> None:
    """Write scan and model; the parameters are the script's."""
    scan, mask = synthesise(shape, classes)
    (folder / "scans").mkdir(parents=True)
    write_volume(folder / "scans" / "big.nii.gz", scan)
    stages = len(features)
    plan = Plan(
        dimensions=3,
        spacing=(1.5, 1.5, 1.5),
        slice_axis=2,
        patch=(window,) * 3,
        batch=2,
        channels=("CT",),
        normalisation=(ChannelNormalisation(kind="clip", low=0, high=1400, mean=400, std=400),),
        mirror=(True, True, True),
        network=NetworkPlan(
            features=tuple(features),
            kernels=((3, 3, 3),) * stages,
            strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
        ),
    )
    labels = LabelMap.parse({f"organ_{value}": value for value in range(1, classes)})
    torch.manual_seed(0)
    network = build_network(plan, labels.outputs)
    teach(network, scan, mask, plan, labels, steps)
    inference = InferenceConfig(precision=precision)
    save_model(Model((network,), plan, labels, name="big", inference=inference), folder / "model")


def synthesise(shape: Sizes, classes: int) -> tuple[Volume, Mask]:
    """Return a body with an ellipsoid a class, and the ellipsoids as a mask."""
    draw = np.random.default_rng(0)
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in shape)]
    image = np.full(shape, -1000, dtype=np.float32)
    mask = np.zeros(shape, dtype=np.uint8)
    body = (axes[0] / 0.85) ** 2 + (axes[1] / 0.65) ** 2 + 0 * axes[2] < 1
    image[body] = 40
    for value in range(1, classes):
        centre, radii = draw.uniform(-0.5, 0.5, 3), draw.uniform(0.08, 0.25, 3) * (20 / classes) ** (1 / 3)
        boxes = [
            slice(max(0, int((c - r + 1) / 2 * n)), int((c + r + 1) / 2 * n) + 2)
            for c, r, n in zip(centre, radii, shape, strict=True)
        ]
        box = tuple(boxes)
        part = [axis[tuple(s if n > 1 else slice(None) for s, n in zip(box, axis.shape, strict=True))] for axis in axes]
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip(part, centre, radii, strict=True)) < 1
        image[box][inside], mask[box][inside] = 100 + 1200 * value / classes, value
    image += 10 * draw.standard_normal(shape, dtype=np.float32)
    grid = Grid(shape, np.diag([*SPACING, 1.0]))
    return Volume(np.rint(image)[None], grid), Mask(mask, grid)


def teach(network: torch.nn.Module, scan: Volume, mask: Mask, plan: Plan, labels: LabelMap, steps: int) -> None:
    """Train for some minutes on patches around the ellipsoids, so that logits are as smooth as a trained network's."""
    prepared = prepare_image(scan, plan)
    truth = torch.from_numpy(prepare_mask(mask, labels, prepared.grid))
    image = torch.from_numpy(prepared.image)
    loss = SegmentationLoss(labels, TrainingConfig())
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
    draw, dtype = np.random.default_rng(0), choose_dtype("auto", CPU)
    network.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        boxes = [patch_around(truth, int(draw.integers(labels.outputs)), draw) for _ in range(plan.batch)]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = network(torch.stack([image[(slice(None), *box)] for box in boxes]))
        optimiser.zero_grad()
        loss(output, torch.stack([truth[box] for box in boxes])).total.backward()
        optimiser.step()
    network.eval()


def patch_around(truth: torch.Tensor, label: int, draw: np.random.Generator) -> tuple[slice, ...]:
    """Return a patch around a random voxel of a label, inside the scan."""
    places = (truth == label).nonzero()
    centre = places[int(draw.integers(len(places)))].tolist()
    starts = [min(max(0, c - PATCH // 2), n - PATCH) for c, n in zip(centre, truth.shape, strict=True)]
    return tuple(slice(start, start + PATCH) for start in starts)


def measure(folder: Path, *, forward: bool) -> dict[str, object]:
    """Segment the scan between two timings of the network alone."""
    alone = [[sys.executable, __file__, "--forward-of", str(folder)]] * forward
    before = [json.loads(subprocess.check_output(command)) for command in alone]
    result = segment(folder)
    after = [json.loads(subprocess.check_output(command)) for command in alone]
    plain = [json.loads(subprocess.check_output([*command, "--plain"])) for command in alone]
    return result | {"network_alone": before + after, "network_plain": plain, "limits_s": limits(folder)}


def limits(folder: Path) -> dict[str, float]:
    """Return the least seconds of stages: inflating the file, and moving what must be moved at the memory's pace.

    Preparing reads the scan and writes the image; stitching reads logits, and reads and writes sums, of every window;
    restoring reads the sums and writes the mask.
    """
    path, model = folder / "scans" / "big.nii.gz", load_model(folder / "model")
    began = time.perf_counter()
    with gzip.open(path) as stream:
        while stream.read(1 << 24):
            pass
    inflating = time.perf_counter() - began
    grid = read_nifti(path).grid
    prepared = plan_grid(grid, model.plan)
    windows = len(tile(prepared.shape, model.plan, model.inference.overlap).origins)
    logit = 4 * model.labels.outputs
    moved = {
        "prepare": 4 * (prod(grid.shape) + prod(prepared.shape)),
        "stitch": 3 * logit * windows * prod(model.plan.patch),
        "restore": logit * prod(prepared.shape) + prod(grid.shape),
    }
    pace = memory_pace()
    return {"read": inflating, **{stage: amount / pace for stage, amount in moved.items()}}


def memory_pace() -> float:
    """Return bytes a second that all cores read and write together, copying 256 MB."""
    fit_threads()
    source, target = torch.ones(1 << 26), torch.ones(1 << 26)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(seconds)


def segment(folder: Path) -> dict[str, object]:
    """Run `medseg segment` and return its time, processor time, peak memory and stages."""
    command = [sys.executable, "-m", "medseg", "segment", str(folder / "scans"), "--model", str(folder / "model")]
    command += ["--output", str(folder / "results"), "--workers", "0", "--redo"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"medseg segment ended with {status}")
    record = json.loads((folder / "results" / "cases" / "big" / "case.json").read_text())
    run = json.loads((folder / "results" / "run.json").read_text())
    return {
        "command_s": time.perf_counter() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "case_s": sum(record["seconds"].values()),
        "run_s": run["seconds"],
        "stages_s": record["seconds"],
        "found": len(record["features"]["structures"]),
    }


def time_forward(folder: Path, device: torch.device = CPU, *, plain: bool = False) -> dict[str, float]:
    """Return the windows that the network sees of the scan, and its seconds for them, after one to warm up.

    Parameters
    ----------
    plain : the maps lie as torch lays them out.
    """
    keep_memory()
    fit_threads()
    model = load_model(folder / "model", device)
    batches, tiling = find_batches(read_nifti(folder / "scans" / "big.nii.gz"), model, device)
    forward = EnsembleForward(model.networks, model.plan, model.inference, device)
    if plain:
        forward.networks = model.networks
    forward(batches[0]).cpu()
    began, processor = time.perf_counter(), time.process_time()
    for batch in batches:
        last = forward(batch)
    last[..., :1].cpu()  # a GPU has then done all
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - processor,
        "windows": tiling,
        "seen": sum(map(len, batches)),
    }


def find_batches(scan: Volume, model: Model, device: torch.device) -> tuple[list[torch.Tensor], int]:
    """Return the batches that segmenting on a device feeds the network, and the number of all windows."""
    prepared = prepare_image(scan, model.plan)
    tiling = tile(prepared.grid.shape, model.plan, model.inference.overlap)
    batches: list[torch.Tensor] = []

    def note(windows: torch.Tensor) -> torch.Tensor:
        batches.append(windows)
        return torch.zeros(1, device=device).expand(len(windows), 1, *windows.shape[2:])

    for _ in stream_scan(note, prepared, model.plan, model.inference, outputs=1, device=device):
        pass
    return batches, len(tiling.origins)


def show(result: dict) -> None:
    """Print the stages as a table."""
    total = result["case_s"]
    for stage in STAGES:
        if stage in result["stages_s"]:
            seconds, limit = result["stages_s"][stage], result["limits_s"].get(stage)
            least = f", at least {limit:.2f} s" if limit else ""
            print(f"{stage:12} {seconds:8.2f} s {seconds / total:6.1%}{least}")
    print(f"{'sum':12} {total:8.2f} s")
    print(f"command      {result['command_s']:8.2f} s, {result['cpu_s']:.1f} s of processor time")
    if result["network_alone"]:
        alone = mean(run["seconds"] for run in result["network_alone"])
        windows = result["network_alone"][0]
        print(f"network      {alone:8.2f} s for {windows['seen']} of {windows['windows']} windows")
        print(f"stages / network {total / alone:.3f}, command / network {result['command_s'] / alone:.3f}")
        plain = result["network_plain"][0]["seconds"]
        print(f"network      {plain:8.2f} s as torch lays it out, command / network {result['command_s'] / plain:.3f}")
    print(f"peak memory {result['peak_mb']:.0f} MB, {result['found']} structures found")


if __name__ == "__main__":
    main()
