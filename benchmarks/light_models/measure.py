"""Latency of a window, size and Dice of every light variant of a model, in one table.

    python benchmarks/light_models/measure.py --data hippocampus --source runs/big/model --work /tmp/light \
        --student half=runs/half/model --student coarse=runs/coarse/model

The source is exported for both runtimes in float32, bf16 and int8, each --student in bf16 and int8, calibrated on
scans that are not held out. Latency is that of one window of 96³ voxels on all cores of the process: the same weights
with another patch, exported again, variants taken in turns; the median and the fastest of the rounds. Dice is of the
held-out scans, each segmented as a user does. What is done is kept in --work, so that a run can go on; results are
written as JSON, CSV and a table for docs/light_models.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from held_out import score

from medseg.export.export import ExportOptions, export_model
from medseg.inference.forward import EnsembleForward
from medseg.inference.hardware import fit_threads, keep_memory
from medseg.networks.model import Model, load_model, save_model
from medseg.provenance import machine, package_versions

WINDOW = (96, 96, 96)
ROUNDS = 5


@dataclass(frozen=True)
class Variant:
    """One row: which network, what computes it, in which arithmetic."""

    network: str
    runtime: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.network}-{self.runtime}-{self.precision}"


KINDS = (
    ("torch", "float32"), ("torch", "bf16"), ("onnx", "float32"), ("onnx", "int8"), ("openvino", "float32"),
    ("openvino", "bf16"), ("openvino", "int8"),
)  # fmt: skip
LIGHT = (("torch", "bf16"), ("onnx", "int8"), ("openvino", "bf16"), ("openvino", "int8"))
"""What a student is measured with: float32 tells nothing new of it."""


def variants(students: list[str]) -> list[Variant]:
    light = [Variant(name, *kind) for name in students for kind in LIGHT]
    return [Variant("source", *kind) for kind in KINDS] + light


def folder_of(variant: Variant, model: Path, work: Path, scans: Path, least: float | None = None) -> Path:
    """Return the variant's model folder, made if it is not there yet."""
    folder = work / "models" / variant.name
    if (folder / "model.json").exists():
        return folder
    if variant.runtime == "torch":
        loaded = load_model(model)
        config = loaded.inference.model_copy(update={"precision": variant.precision})
        save_model(replace(loaded, inference=config), folder)
        return folder
    int8 = variant.precision == "int8"
    options = ExportOptions((variant.runtime,), int8, variant.precision == "float32", scans, least)
    export_model(model, folder, options)
    return folder


def with_window(model: Path, folder: Path) -> Path:
    """Return a copy of a model whose plan has the window that is timed."""
    if not (folder / "model.json").exists():
        loaded = load_model(model)
        save_model(replace(loaded, plan=loaded.plan.model_copy(update={"patch": WINDOW})), folder)
    return folder


def forward_of(variant: Variant, folder: Path) -> EnsembleForward:
    model: Model = load_model(folder, backend=variant.runtime)
    precision = variant.precision if variant.runtime == "torch" else "float32"
    config = model.inference.model_copy(update={"precision": precision, "flips": False})
    return EnsembleForward(model.networks, model.plan, config, torch.device("cpu"))


def latencies(chosen: list[Variant], models: dict[str, Path], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of a window by variant, in turns."""
    work = args.work / "windows"
    scans = some_scans(args.data, args.work / "one_scan", 1)  # no latency depends on what is in a window
    large = {v.network: with_window(models[v.network], work / v.network / "source") for v in chosen}
    forwards = {v.name: forward_of(v, folder_of(v, large[v.network], work / v.network, scans, 0.0)) for v in chosen}
    window = torch.randn(1, 1, *WINDOW)
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for turn in range(ROUNDS + 1):
        for name, forward in forwards.items():
            began = time.perf_counter()
            forward(window)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def some_scans(data: Path, folder: Path, count: int) -> Path:
    """Return a folder with the first scans that are not held out."""
    held_out = json.loads((data / "splits.json").read_text())["validation"]
    free = [p for p in sorted((data / "images").glob("*.nii.gz")) if p.name.removesuffix(".nii.gz") not in held_out]
    folder.mkdir(parents=True, exist_ok=True)
    for path in free[:count]:
        shutil.copy(path, folder)
    return folder


def dice(folder: Path, data: Path) -> float:
    record = folder.with_name(f"{folder.name}.dice.json")
    if not record.exists():
        evaluation = score(folder, data)
        record.write_text(json.dumps(evaluation.mean_dice))
    return float(json.loads(record.read_text()))


def scored(work: Path, variant: Variant) -> Path:
    """Return where a variant's Dice is kept; a part that was not measured has none."""
    return work / "models" / f"{variant.name}.dice.json"


def megabytes(folder: Path) -> float:
    return round(
        sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".safetensors", ".onnx", ".xml", ".bin")) / 1e6,
        2,
    )


def table(rows: list[dict]) -> str:
    """Return the table of the page; what was not measured is left blank."""
    head = "| network | computed by | ms a window | speed-up | MB | Dice | points lost |\n"
    lines = [head, "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"]
    for row in rows:
        dice, lost = ("", "") if row["dice"] is None else (f"{row['dice']:.4f}", f"{100 * row['lost']:.2f}")
        faster = rows[0]["ms_median"] / row["ms_median"]
        lines.append(
            f"| {row['network']} | {row['runtime']} {row['precision']} | {row['ms_median']:.0f} | {faster:.1f} | "
            f"{row['mb']:.1f} | {dice} | {lost} |\n"
        )
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--student", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--variant", action="append", default=[], help="such as source-openvino-int8; default: all")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=("all", "dice", "latency", "table"), default="all")
    args = parser.parse_args()
    keep_memory()
    threads = fit_threads()
    students = {name: Path(path) for name, path in (student.split("=", 1) for student in args.student)}
    models = {"source": args.source, **students}
    chosen = [v for v in variants(list(students)) if v.name in args.variant or not args.variant]
    timed = args.work / "latency.json"
    if args.part in ("all", "latency") and not timed.exists():
        timed.write_text(json.dumps(latencies(chosen, models, args)))
    if args.part in ("all", "dice"):
        scans = some_scans(args.data, args.work / "scans", 12)
        found = {v.name: dice(folder_of(v, models[v.network], args.work, scans), args.data) for v in chosen}
    if args.part == "table":
        found = {v.name: json.loads(p.read_text()) for v in chosen if (p := scored(args.work, v)).exists()}
    if args.part in ("all", "table"):
        write(chosen, json.loads(timed.read_text()), found, args, threads)


def write(chosen: list[Variant], seconds: dict, found: dict, args: argparse.Namespace, threads: int) -> None:
    best = found[Variant("source", "torch", "float32").name]
    rows = [
        {
            **asdict(v),
            "ms_median": round(1000 * median(seconds[v.name]), 1),
            "ms_fastest": round(1000 * min(seconds[v.name]), 1),
            "mb": megabytes(args.work / "windows" / v.network / "models" / v.name),
            "dice": found.get(v.name),
            "lost": round(best - found[v.name], 5) if v.name in found else None,
        }
        for v in chosen
        if v.name in seconds
    ]
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    about = {"window": WINDOW, "rounds": ROUNDS, "threads": threads, "machine": machine(),
             "versions": package_versions(("medseg", "torch", "onnxruntime", "openvino", "onnx"))}  # fmt: skip
    (results / "hippocampus.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    with (results / "hippocampus.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (results / "hippocampus.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
