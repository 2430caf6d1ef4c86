"""Write docs/performance.md and its plots from the results; a test compares the page with what this would write.

python benchmarks/performance/page.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import page_gpu as gpu
from harness import Spread, fit_growth

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "images"

Rows = dict[str, list[dict[str, float]]]

AXES = {"volume": "edge of a cube, voxels", "classes": "classes with the background", "cases": "cases in one command"}

WHOSE = {"nnunet": "nnU-Net's", "monai": "MONAI's", "openvino": "the exported model's"}

HEAD = """# What it costs

Written by `python benchmarks/performance/page.py` from `benchmarks/performance/results/`; don't edit it by hand.

Every line is a command as a user types it, from start to the last file, in an environment of its own. Contestants took
turns (A B A B); times are medians, with the range of all runs behind them, and memory is the highest of the whole
process tree, shared pages counted once. Run it again:

```
sh benchmarks/performance/peers.sh        # nnU-Net 2.8.1 and MONAI 1.6.1, each in an environment of its own (once)
make bench                                # minutes: medseg alone
python benchmarks/performance/segment_big.py --rounds 2     # with the peers; the others: benchmarks/README.md
```

Where other work ran beside, each result file has the load: read ratios before seconds. nnU-Net ran with its default
worker processes, and without test-time mirroring, as medseg does.
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    PLOTS.mkdir(exist_ok=True)
    draw_peers(PLOTS / "performance_peers.png")
    draw_growth(PLOTS / "performance_growth.png")


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, machine_line(), "![Seconds and memory beside the peers](images/performance_peers.png)\n"]
    parts += [
        big(),
        elsewhere(),
        stages(),
        gpu.section(*map(read, gpu.RESULTS)),
        small(),
        training(),
        augmentation(),
        preparing(),
        growth(),
    ]
    return "\n".join(parts)


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def machine_line() -> str:
    result = read("segment_big")
    machine, torch = result["machine"], result["versions"]["torch"]
    place = f"{machine['cores']} cores of an {machine['processor']}, {machine['memory_gb']:.0f} GB, {machine['system']}"
    when = f"{result['date'][:10]} (load average {result['load'][0]:.1f})"
    return f"Measured {when} on {place}, Python {machine['python']}, torch {torch}.\n"


def big() -> str:
    result = read("segment_big")
    shape = "x".join(map(str, result["shape"]))
    agrees = ", ".join(f"{WHOSE[name]} {share:.2%}" for name, share in result["agreement"].items())
    return f"""## One large CT

{shape} voxels of 0.8x0.8x1.5 mm, {result["classes"]} classes, plan at 1.5 mm, {result["windows"]} windows of 96³, a
U-Net of 16 to 256 features. All apply the same weights to the same windows; MONAI's pipeline runs medseg's network.
Where the processor is faster with bf16, medseg uses it, and it leaves out windows of nothing but air. (OpenVINO): the
model folder that `medseg export --to openvino` wrote; in 8 bits the export of this network is refused, because only
98.4% of the voxels kept their labels. (`benchmarks/performance/segment_big.py`)

The scan is made up and the network trained on it for minutes: this tests speed, not accuracy. Voxels that equal
medseg's: {agrees}.
More than half of what nnU-Net draws otherwise is its interpolation, which lets noise fold into the coarser grid: of a
scan resampled that way medseg draws 99.57% as nnU-Net does. MONAI samples the scan at other places.

{table(result["runs"])}"""


def elsewhere() -> str:
    """Return the same CT on processors of another kind: one gains nothing by bf16, one much."""
    without, with_amx = read("segment_big_intel"), read("segment_big_amx")
    return f"""### On an Intel processor without AMX

There float32 is faster than bf16 (`medseg/networks/arithmetic.py`), so medseg takes it; in channels-last layout
(`medseg/inference/channels_last.py`) a window takes 0.44 s instead of 0.56. {place_of(without)}

{table(without["runs"])}
### On an Intel processor with AMX

A window takes 0.28 s in channels-last layout, with norm and activation at once, instead of 0.52. The tables of other
processors are older than the latter, which brought medseg from 62 s to 55 here (medians of three turns each).
{place_of(with_amx)}

{table(with_amx["runs"])}"""


def place_of(result: dict[str, Any]) -> str:
    """Return a sentence on a machine that isn't the page's, and what the masks have in common there."""
    agrees = ", ".join(f"{WHOSE[name]} {share:.2%}" for name, share in result["agreement"].items())
    cores, torch = result["machine"]["cores"], result["versions"]["torch"]
    return f"{cores} cores, torch {torch};\nvoxels that equal medseg's: {agrees}."


def stages() -> str:
    result, with_amx, many = read("big_case"), read("big_case_amx"), read("big_case_118")
    seconds = result["stages_s"]
    limits = {**result["limits_s"], "forward": mean(run["seconds"] for run in result["network_alone"])}
    order = ("read", "prepare", "forward", "stitch", "restore", "postprocess", "measure", "write")
    lines = [
        f"| {stage} | {seconds[stage]:.2f} | {seconds[stage] / result['case_s']:.1%} | {shown_limit(limits, stage)} |"
        for stage in order
        if stage in seconds
    ]
    shape = "x".join(map(str, many["shape"]))
    return f"""### Where its time goes

One process, no peers beside. The limits: inflating the file; the network alone on the same windows, before and after;
for the others, moving what must be moved once at the pace of this memory (`benchmarks/performance/big_case.py`).

| stage | seconds | share | limit |
| --- | --- | --- | --- |
{chr(10).join(lines)}

Against the bare network, in medseg's layout of maps and in torch's own; the command has its start and the report, too:

| processor | network, s | all stages | command | network in torch's layout, s | command |
| --- | --- | --- | --- | --- | --- |
{against_network("AMD EPYC", result)}
{against_network("Intel Xeon with AMX", with_amx)}

The scan above takes {result["peak_mb"]:,.0f} MB at most,
{shape} voxels with {many["classes"]} classes and a small network {many["peak_mb"]:,.0f} MB.
"""


def against_network(processor: str, result: dict[str, Any]) -> str:
    """Return a row: how many times the bare network's seconds a large case takes."""
    alone, plain = (mean(run["seconds"] for run in result[name]) for name in ("network_alone", "network_plain"))
    stages, command = result["case_s"], result["command_s"]
    cells = (
        f"{alone:.1f}",
        f"{stages / alone:.2f}",
        f"{command / alone:.2f}",
        f"{plain:.1f}",
        f"{command / plain:.2f}",
    )
    return f"| {processor} | {' | '.join(cells)} |"


def shown_limit(limits: dict[str, float], stage: str) -> str:
    return f"{limits[stage]:.2f}" if stage in limits else ""


def small() -> str:
    result = read("segment_small")
    dice = result["dice"]
    return f"""## Twenty small MRs, and one

Hippocampi of about 36x50x35 voxels with the model that comes with medseg, its weights copied to nnU-Net:
{result["agreement"]:.3%} of the voxels agree, Dice {dice["medseg"]:.4f} and {dice["nnunet"]:.4f}.
(`benchmarks/performance/segment_small.py`)

{table({name: runs for name, runs in result["runs"].items() if name.endswith(", 20")})}
{table({name: runs for name, runs in result["runs"].items() if name.endswith(", 1")})}"""


def training() -> str:
    result = read("training_step")
    steps = result["steps"]
    ours, theirs = steps["medseg"], steps["nnU-Net"]
    rows = [
        ("nnU-Net's loop, float32", theirs["step"]),
        (f"medseg's loop, {ours['precision'].removesuffix('-mixed')}", ours["step"]),
        ("medseg, one batch in memory: forward, loss, backward, clipping, optimiser", ours["bare"]),
        ("medseg, forward, loss and backward alone", ours["pure"]),
    ]
    lines = [f"| {name} | {spread(times)} | {ratio(times, ours['step'])} |" for name, times in rows]
    patch = "x".join(map(str, ours["patch"]))
    return f"""## A training step

nnU-Net's default network ({ours["features"][0]} to {ours["features"][-1]} features) and batch ({ours["batch_size"]}
patches of {patch}) for hippocampi, each with its own augmentation at nnU-Net's strength, on
{result["machine"]["cores"]} cores of an {result["machine"]["processor"]} with AMX. There medseg's layout of maps
(`medseg/networks/layout.py`) saves a quarter of the step. A step of medseg's loop, with augmentation, clipping,
optimiser, averaged weights and journal, takes {ratio(ours["step"], ours["pure"])} times the forward, loss and backward
alone ({ratio(ours["step_cpu"], ours["pure_cpu"])} times the processor time).
(`benchmarks/performance/training_step.py`)

| what | seconds | of medseg's |
| --- | --- | --- |
{chr(10).join(lines)}
"""


def augmentation() -> str:
    result = json.loads((ROOT / "benchmarks" / "results" / "augmentation.json").read_text(encoding="utf-8"))
    row = result["ms_a_sample"]["128x128x128"]["default"]
    return f"""## Augmentation

A patch of 128³ on one thread, read and augmented at nnU-Net's strength: {row["mean"]:.0f} ms on average, median
{row["median"]:.0f}, slowest {row["max"]:.0f} (nnU-Net's transforms on such a machine: 254, 186, 1800).
(`benchmarks/augmentation.py`)
"""


def preparing() -> str:
    result = read("prepare")
    return f"""## Planning and preprocessing

{result["cases"]} hippocampi: look at every case, plan, write what training reads. (`benchmarks/performance/prepare.py`)

{table(result["runs"])}"""


def growth() -> str:
    runs = read("scaling")["runs"]
    lines = []
    for what in swept(runs):
        axis, (sizes, seconds, memory) = AXES[what], series(runs, what)
        time, space = fit_growth(sizes, seconds), fit_growth(sizes, memory)
        lines.append(
            f"| {axis}, {sizes[0]} to {sizes[-1]} | {seconds[0]:.1f} to {seconds[-1]:.1f} | {exponent(time, seconds)} "
            f"| {memory[0]:.0f} to {memory[-1]:.0f} | {exponent(space, memory)} |"
        )
    return f"""## How cost grows

One run each, with a small network, so that what isn't the network shows. The exponent k is that of the fit
`fixed + factor · size^k`; a cube's voxels grow with k = 3. (`benchmarks/performance/scaling.py`)

| size | seconds | growth | MB | growth |
| --- | --- | --- | --- | --- |
{chr(10).join(lines)}

![Time and memory against volume, classes and cases](images/performance_growth.png)
"""


def exponent(fit: Any, costs: Sequence[float]) -> str:
    """Return the exponent of a fit; of a cost that hardly grows it means nothing, and the growth itself is said."""
    return f"k = {fit.exponent:.2f}" if costs[-1] > 1.5 * costs[0] else f"{costs[-1] / costs[0]:.2f} times in all"


def swept(runs: Rows) -> list[str]:
    """Return which sizes were varied, in the page's order."""
    return [what for what in AXES if any(name.split()[0] == what for name in runs)]


def series(runs: Rows, what: str) -> tuple[list[int], list[float], list[float]]:
    """Return sizes, median seconds and median MB of one sweep."""
    sizes = sorted(int(name.split()[1]) for name in runs if name.split()[0] == what)
    of_size = [runs[f"{what} {size}"] for size in sizes]
    return (
        sizes,
        [median(values(ones, "seconds")) for ones in of_size],
        [median(values(ones, "peak_mb")) for ones in of_size],
    )


def table(runs: Rows) -> str:
    """Return runs as a table; the first contestant is what the others are compared with."""
    first = next(iter(runs.values()))
    lines = [
        "| command | seconds | ratio | CPU seconds | MB | ratio | runs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, ones in runs.items():
        cells = [
            name.rpartition(", ")[0] or name,
            spread(values(ones, "seconds")),
            ratio(values(ones, "seconds"), values(first, "seconds")),
            f"{median(values(ones, 'cpu_seconds')):.1f}",
            f"{median(values(ones, 'peak_mb')):.0f}",
            ratio(values(ones, "peak_mb"), values(first, "peak_mb")),
            str(len(ones)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(numbers: Iterable[float]) -> str:
    """Return median and range."""
    of = Spread.of(numbers)
    digits = 2 if of.median < 10 else 1
    return f"**{of.median:.{digits}f}** ({of.lowest:.{digits}f} to {of.highest:.{digits}f})"


def ratio(numbers: Iterable[float], base: Iterable[float]) -> str:
    return f"{median(numbers) / median(base):.2f}"


def values(ones: Sequence[dict[str, float]], key: str) -> list[float]:
    return [one[key] for one in ones]


def draw_peers(path: Path) -> None:
    """Draw seconds and memory of all contestants, a column a benchmark."""
    from matplotlib.figure import Figure

    small_runs, big_runs, prepared = read("segment_small")["runs"], read("segment_big")["runs"], read("prepare")["runs"]
    columns = {
        "one large CT": big_runs,
        "20 small MRs": {n.removesuffix(", 20"): r for n, r in small_runs.items() if n.endswith(", 20")},
        "1 small MR": {n.removesuffix(", 1"): r for n, r in small_runs.items() if n.endswith(", 1")},
        "plan + preprocess 40": prepared,
    }
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, len(columns))
    for column, (title, runs) in enumerate(columns.items()):
        for row, (key, unit) in enumerate({"seconds": "seconds", "peak_mb": "MB, whole process tree"}.items()):
            _bars(axes[row, column], [values(ones, key) for ones in runs.values()], list(map(_short, runs)), unit)
        axes[0, column].set_title(title)
    figure.savefig(path, dpi=100)


def draw_growth(path: Path) -> None:
    """Draw seconds and memory against each size, with the fits."""
    import numpy as np
    from matplotlib.figure import Figure

    runs = read("scaling")["runs"]
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(2, len(swept(runs)))
    for column, what in enumerate(swept(runs)):
        label, (sizes, *costs) = AXES[what], series(runs, what)
        for row, (unit, cost) in enumerate(zip(("seconds", "MB, whole process tree"), costs, strict=True)):
            place, fit = axes[row, column], fit_growth(sizes, cost)
            line = np.geomspace(sizes[0], sizes[-1], 100)
            place.plot(line, [fit.at(size) for size in line], color="0.6", label=f"fit: {exponent(fit, cost)}")
            place.plot(sizes, cost, "o", color="tab:blue")
            place.set(xscale="log", xlabel=label, ylabel=unit, ylim=(0, 1.15 * max(cost)))
            place.set_xticks(sizes, map(str, sizes))
            place.minorticks_off()
            place.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=100)


def _bars(place: Any, measured: list[list[float]], names: list[str], unit: str) -> None:
    medians = list(map(median, measured))
    colours = ["tab:blue" if name.startswith("medseg") else "0.7" for name in names]
    place.bar(range(len(names)), medians, color=colours)
    whiskers = [[m - min(v) for m, v in zip(medians, measured, strict=True)]]
    whiskers.append([max(v) - m for m, v in zip(medians, measured, strict=True)])
    place.errorbar(range(len(names)), medians, yerr=whiskers, fmt="none", color="black", capsize=3)
    for number, (middle, numbers) in enumerate(zip(medians, measured, strict=True)):
        place.annotate(
            f"{middle:.3g}" if middle < 1000 else f"{middle:.0f}",
            (number, max(numbers)), xytext=(0, 4), textcoords="offset points", ha="center",
        )  # fmt: skip
    place.set_xticks(range(len(names)), names, fontsize=8)
    place.set(ylabel=unit, ylim=(0, 1.2 * max(map(max, measured))))


def _short(name: str) -> str:
    """Return a contestant's name for below a bar."""
    return {
        "nnUNetv2_predict -npp 0 -nps 0": "nnU-Net,\nno workers",
        "MONAI sliding window + Invertd": "MONAI",
        "medseg segment (OpenVINO)": "medseg,\nOpenVINO",
    }.get(name, "medseg" if name.startswith("medseg") else "nnU-Net")


if __name__ == "__main__":
    main()
