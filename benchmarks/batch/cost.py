"""What a hundred thousand CTs cost: measured work of one case on a core, assumptions about GPU and storage, a table.

    python benchmarks/batch/cost.py measure    # one CT of 512 x 512 x 256, 20 classes; writes cost.json; 2 minutes
    python benchmarks/batch/cost.py table      # the table of docs/scaling.md, from cost.json and `ASSUMED`

Processor time of one thread is measured, not wall time, so that a busy machine does no harm. The network is replaced by
one that costs nothing: its time on a GPU is an assumption.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

HERE = Path(__file__).parent
SHAPE, SPACING, CLASSES = (512, 512, 256), (0.8, 0.8, 1.5), 20
PATCH, TARGET = (96, 96, 96), (1.5, 1.5, 1.5)
CASES = 100_000
HU_STEP = 100.0
"""Between two organs: so much more than the noise that the mask is as smooth as a good one."""

WORKERS = (1, 4, 16, 64, 256)


@dataclass(frozen=True)
class Assumed:
    """What was not measured.

    Attributes
    ----------
    network : s on the GPU for a case, with stitching and restoring there.
    storage : bytes a second that the shared storage gives to all nodes together.
    """

    network: float
    storage: float


ASSUMED = {
    "1.2 s; 1 GB/s": Assumed(1.2, 1e9),
    "16 s; 1 GB/s": Assumed(16.0, 1e9),
    "1.2 s; 5 GB/s": Assumed(1.2, 5e9),
}
"""16 s is what a user of nnU-Net reports for the network on a large CT (MIC-DKFZ/nnUNet issue 2540); 1.2 s is what an
H200 takes for a network of 5.7 million parameters, 125 windows of 96³, in bf16 (docs/performance.md)."""

WRITERS = 3
"""Threads that measure and write beside a GPU (`medseg.batch.worker`)."""

SOURCES = {"dicom": "DICOM", "nifti": "NIfTI"}


@dataclass(frozen=True)
class Case:
    """One case: seconds in each stage of a worker, bytes that it moves."""

    read: float
    predict: float
    write: float
    bytes: float

    @property
    def slowest(self) -> tuple[float, str]:
        """Stages work at once: the longest sets the pace."""
        return max((self.read, "read"), (self.predict, "network"), (self.write / WRITERS, "write"))

    @property
    def cores(self) -> float:
        """Cores that a worker keeps busy, the network's on the GPU counted as one that drives it."""
        return (self.read + self.predict + self.write) / self.slowest[0]


def case_of(measured: dict[str, dict[str, float]], source: str, assumed: Assumed) -> Case:
    """Return one case's cost: digested and decoded, its source comes from the storage once, then from memory."""
    seconds, sizes = measured["seconds"], measured["bytes"]
    return Case(
        read=seconds[f"digest {source}"] + seconds[f"decode {source}"] + seconds["prepare"],
        predict=assumed.network,
        write=seconds["write mask"] + seconds["measure"] + seconds["picture"],
        bytes=sizes[source] + sizes["results"],
    )


def hours(case: Case, workers: int, assumed: Assumed) -> tuple[float, str]:
    """Return the hours that all cases take, and what sets the pace."""
    pace, stage = case.slowest
    return max((CASES * pace / workers / 3600, stage), (CASES * case.bytes / assumed.storage / 3600, "storage"))


def table(measured: dict[str, dict[str, float]]) -> str:
    """Return hours and bottleneck against the number of workers, as Markdown."""
    lines = ["| source; network; storage | cores a GPU | " + " | ".join(f"n = {n}" for n in WORKERS) + " |"]
    lines.append("| --- |" + " ---: |" * (len(WORKERS) + 1))
    for source, name in SOURCES.items():
        for words, assumed in ASSUMED.items():
            case = case_of(measured, source, assumed)
            cells = [f"{value:,.0f} {what}" for value, what in (hours(case, n, assumed) for n in WORKERS)]
            lines.append(f"| {name}; {words} | {case.cores:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stages(measured: dict[str, dict[str, float]]) -> str:
    """Return the measured seconds and bytes of a case, as Markdown."""
    lines = ["| step | seconds of one core |", "| --- | ---: |"]
    lines += [f"| {name} | {value:.1f} |" for name, value in measured["seconds"].items()]
    lines += ["", "| file | MB |", "| --- | ---: |"]
    lines += [f"| {name} | {value / 1e6:.1f} |" for name, value in measured["bytes"].items()]
    return "\n".join(lines)


def measure(folder: Path) -> dict[str, object]:
    """Return processor seconds and bytes of each step for one CT."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import medseg.inference.predictor as predicting
    from medseg.config import InferenceConfig
    from medseg.inference.hardware import keep_memory
    from medseg.io.dicom_write import write_series
    from medseg.io.nifti import write_mask, write_volume
    from medseg.io.scan import read_case
    from medseg.measures.intensity import measure_scan
    from medseg.measures.measure import measure_mask
    from medseg.networks.model import Model
    from medseg.provenance import digest_files, machine, package_versions
    from medseg.quality.overlay import overlay_png
    from medseg.volume import Case as Scan
    from medseg.volume import Source

    torch.set_num_threads(1)
    keep_memory()  # as workers do
    predicting.perf_counter = process_time  # stages in processor time, whatever else the machine does
    volume = make_scan()
    write_volume(folder / "scan.nii.gz", volume)
    sources = {
        "dicom": write_series(volume, folder / "series"),
        "nifti": Source("nifti", (folder / "scan.nii.gz",)),
    }
    seconds: dict[str, float] = {}
    for name, source in sources.items():
        seconds[f"digest {name}"] = timed(lambda source=source: digest_files(source.files))[0]
        seconds[f"decode {name}"], (volume, _) = timed(lambda source=source: read_case(Scan("scan", (source,))))
    plan, labels, network = make_model()
    config = InferenceConfig(precision="float32", flips=False)
    prediction = predicting.Predictor(Model((network,), plan, labels), config).predict(volume)
    seconds["prepare"] = prediction.timings["prepare"]
    seconds["stitch on a CPU"] = prediction.timings["stitch"]
    seconds["restore on a CPU"] = prediction.timings["restore"]
    results = folder / "results"
    results.mkdir()
    mask = prediction.mask
    seconds["write mask"] = timed(lambda: write_mask(results / "mask.nii.gz", mask, sources["nifti"], labels))[0]
    seconds["measure"] = timed(lambda: (measure_scan(volume), measure_mask(volume, mask, labels, slice_axis=2)))[0]
    overlay_png(volume, mask, labels, results / "overlay.png")
    seconds["picture"] = timed(lambda: overlay_png(volume, mask, labels, results / "overlay.png"))[0]
    sizes = {name: size_of(source.files) for name, source in sources.items()}
    sizes["results"] = size_of(results.iterdir())
    return {
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "bytes": sizes,
        "machine": machine(),
        "versions": package_versions(),
    }


def timed(work):
    """Return the processor seconds of a call, and what it gives."""
    began = process_time()
    value = work()
    seconds = process_time() - began
    print(f"{seconds:.1f} s", flush=True)
    return seconds, value


def size_of(paths) -> int:
    return sum(path.stat().st_size for path in paths)


def make_scan():
    """Return a body of air, fat and 20 organs of different HU, with noise."""
    import numpy as np

    from medseg.geometry import Grid
    from medseg.volume import Volume

    rng = np.random.default_rng(0)
    grid = Grid(SHAPE, np.diag([*(-s for s in SPACING[:2]), SPACING[2], 1.0]))
    x, y, z = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    image = np.where(((x - 256) / 210) ** 2 + ((y - 256) / 150) ** 2 < 1, -80.0, -1000.0).astype(np.float32)
    image = np.broadcast_to(image, SHAPE).copy()
    for number in range(CLASSES):
        centre = rng.uniform((140, 180, 40), (370, 330, 215))
        radii = rng.uniform(12, 45, 3)
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radii, strict=True)) < 1
        image[inside] = HU_STEP * (number + 1)
    image += rng.normal(0, 12, SHAPE).astype(np.float32)
    return Volume(np.rint(image)[None], grid)


def make_model():
    """Return a plan, labels, and a network of no cost: each class where the HU are near its own."""
    import torch

    from medseg.labels import LabelMap
    from medseg.outputs import NetworkOutput
    from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

    hu = torch.tensor([-80.0, *(HU_STEP * (number + 1) for number in range(CLASSES))]).reshape(1, -1, 1, 1, 1)

    class NearestHu(torch.nn.Module):
        def forward(self, image):
            return NetworkOutput(-(((image - hu / 100) * 5) ** 2))

    plan = Plan(
        dimensions=3,
        spacing=TARGET,
        slice_axis=2,
        patch=PATCH,
        batch=2,
        channels=("CT",),
        normalisation=(ChannelNormalisation(kind="clip", low=-1000, high=2200, mean=0, std=100),),
        mirror=(False, False, False),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
    )
    return plan, LabelMap.parse({f"organ {number}": number for number in range(1, CLASSES + 1)}), NearestHu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "table"])
    if parser.parse_args().what == "measure":
        with TemporaryDirectory() as folder:
            result = measure(Path(folder))
        (HERE / "cost.json").write_text(json.dumps(result, indent=2) + "\n")
    measured = json.loads((HERE / "cost.json").read_text())
    print(stages(measured), table(measured), sep="\n\n")


if __name__ == "__main__":
    main()
