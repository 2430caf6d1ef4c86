"""The part of docs/performance.md on a GPU, which was there for minutes: `page.py` puts it in."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]

RESULTS = ("segment_queue_cuda_before", "segment_queue_cuda", "gpu_network")
"""Their names, in the order of `section`; the first is of the code as it was before."""

WINDOWS = ("1 at once", "2 at once", "4 at once", "4 at once, graph", "4 at once, compiled", "8 at once")


def section(before: Result, queue: Result, network: Result) -> str:
    """Return the section of these results."""
    window, step = network["window_ms"], network["step_ms"]
    names = ("read", "prepare", "forward", "stitch", "restore", "measure", "write")
    rows = [f"| {name} | {before['stages_s'][name]:.2f} | {queue['stages_s'][name]:.2f} |" for name in names]
    times = [f"| {name} | {window[f'torch, {name}']:.1f} | {window[f'last, {name}']:.1f} |" for name in WINDOWS]
    shape = "x".join(map(str, queue["shape"]))
    alone, share = queue["network_alone"]["seconds"], queue["inferring_share"]
    return f"""## On a GPU

An {network["device"]} with {queue["machine"]["cores"]} cores was there for minutes; torch {queue["versions"]["torch"]}.

A queue of {queue["cases"]} CTs of {shape} voxels and {queue["classes"]} classes, the one from above, report and all:
**{queue["seconds_a_case"]:.2f} s a case** in steady state, with {queue["memory_mb"]["gpu"]:,.0f} MB of the GPU and
{queue["memory_mb"]["resident"]:,.0f} MB of memory. The GPU is at work for {alone / queue["seconds_a_case"]:.0%} of the
time at least, which the network alone takes, and {share:.0%} at most, in which medseg infers. Before maps had their
channels side by side it was {before["seconds_a_case"]:.2f} s. The worker had three cases in hand, whose stages one by
one take 5.2 s: since then it has five, not measured. (`benchmarks/performance/segment_queue.py`)

| stage | before, s | s |
| --- | --- | --- |
{chr(10).join(rows)}
| network alone | {before["network_alone"]["seconds"]:.2f} | {alone:.2f} |

A window of 96³ through 16 to 256 features in bf16, milliseconds. A CUDA graph saves nothing: the GPU doesn't wait for
Python. Compiling takes tens of seconds at every start, so medseg doesn't. (`benchmarks/performance/gpu_network.py`)

| windows | torch's layout | channels side by side |
| --- | --- | --- |
{chr(10).join(times)}

Loss and gradient of two patches of 112x112x80, 24 to 160 features:

| step | ms |
| --- | --- |
| torch's layout | {step["torch"]:.1f} |
| torch's layout, compiled in {step["torch, seconds to compile"]:.0f} s | {step["torch, compiled"]:.1f} |
| channels side by side, as medseg has them | {step["last"]:.1f} |
| of each: sums by class that all voxels add to one place (mended since) | 4.6 |
| AdamW besides, a parameter at a time | {network["optimiser_ms"]["a parameter at a time"]:.1f} |
| in one kernel, as medseg has it | {network["optimiser_ms"]["medseg"]:.1f} |

A batch of such patches took the 16 cores 27 ms, with unlabelled ones 52, however many threads worked on it; now the GPU
turns, deforms and changes them. Side by side, four trainings then took 30 ms for each other's supervised steps.
"""
