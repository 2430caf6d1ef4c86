"""Time augmented patches on one thread: mean, median and slowest sample, and what each change costs.

    python benchmarks/augmentation.py --samples 60 --json benchmarks/results/augmentation.json

The case is random float16 in memory, converted as it is read, as from the cache. CPU time of the thread is reported
beside wall time, because other work on the machine lengthens only the latter. nnU-Net 2.8.1's default transforms on
the same kind of machine take 254 ms a sample at 128^3 (median 186, slowest 1800), plus 28 ms to read 205^3 voxels.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseg.config import AugmentationConfig
from medseg.data.augment import Augmenter
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

CHANGES = {
    "read only": {},
    "rotation": {"rotation_p": 1.0},
    "scaling": {"scaling_p": 1.0},
    "elastic": {"elastic_p": 1.0},
    "mirror": {"mirror_p": 1.0},
    "noise": {"noise_p": 1.0},
    "blur (half the channels)": {"blur_p": 1.0},
    "brightness": {"brightness_p": 1.0},
    "contrast": {"contrast_p": 1.0},
    "low resolution (half)": {"low_resolution_p": 1.0},
    "gamma": {"gamma_p": 1.0},
    "gamma inverted": {"gamma_inverted_p": 1.0},
}
NOTHING = {name: 0.0 for name in AugmentationConfig.model_fields if name.endswith("_p")}


@dataclass
class RandomCase:
    """A case in memory as the cache stores it: float16 image, uint8 mask."""

    image: np.ndarray
    target: np.ndarray
    foreground = {}  # noqa: RUF012

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.target.shape

    def read(self, start: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray, None]:
        there = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        return self.image[(slice(None), *there)].astype(np.float32), np.ascontiguousarray(self.target[there]), None


def make_case(patch: Sequence[int]) -> RandomCase:
    shape = [2 * n + 16 for n in patch]  # room for every rotation and size
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, *shape), dtype=np.float32).astype(np.float16)
    return RandomCase(image, rng.integers(0, 3, shape, dtype=np.uint8))


def make_plan(patch: Sequence[int]) -> Plan:
    return Plan(
        dimensions=3,
        spacing=(1.0, 1.0, 1.0),
        slice_axis=2,
        patch=patch,
        batch=2,
        channels=("image",),
        normalisation=(ChannelNormalisation(kind="zscore"),),
        mirror=(True, True, True),
        network=NetworkPlan(features=(8, 16), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1),) * 2),
    )


def measure(sample: Callable[[int], object], samples: int) -> dict[str, float]:
    """Return milliseconds a sample; the first call, which fills caches, is left out."""
    sample(0)
    wall, cpu = [], []
    for index in range(1, samples + 1):
        before, before_cpu = time.perf_counter(), time.thread_time()
        sample(index)
        wall.append(1000 * (time.perf_counter() - before))
        cpu.append(1000 * (time.thread_time() - before_cpu))
    rows = {"mean": np.mean, "median": np.median, "max": np.max}
    result = {name: round(float(row(wall)), 2) for name, row in rows.items()}
    return result | {f"cpu_{name}": round(float(row(cpu)), 2) for name, row in rows.items()}


def sampler(config: AugmentationConfig, patch: Sequence[int], case: RandomCase) -> Callable[[int], object]:
    augmenter = Augmenter(config, make_plan(patch))
    start = [(n - p) // 2 for n, p in zip(case.shape, patch, strict=True)]
    return lambda index: augmenter(case, start, np.random.default_rng([7, index]))


def run(patch: tuple[int, int, int], samples: int) -> dict[str, dict[str, float]]:
    case = make_case(patch)
    rows = {"default": measure(sampler(AugmentationConfig(), patch, case), samples)}
    for name, probabilities in CHANGES.items():
        config = AugmentationConfig(**{**NOTHING, **probabilities})
        rows[name] = measure(sampler(config, patch, case), max(5, samples // 6))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=60, help="samples with the default configuration")
    parser.add_argument("--patch", action="append", help="x,y,z in voxels; may be repeated")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    patches = [tuple(map(int, text.split(","))) for text in arguments.patch or ["128,128,128", "40,56,40"]]
    results = {"x".join(map(str, patch)): run(patch, arguments.samples) for patch in patches}
    for patch, rows in results.items():
        print(f"\n{patch}, ms a sample{'mean':>22}{'median':>9}{'max':>9}{'cpu mean':>11}{'cpu max':>10}")
        for name, row in rows.items():
            cells = (row["mean"], row["median"], row["max"], row["cpu_mean"], row["cpu_max"])
            print(f"  {name:<32}" + "".join(f"{cell:>10.1f}" for cell in cells))
    if arguments.json:
        machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(machine | {"ms_a_sample": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
