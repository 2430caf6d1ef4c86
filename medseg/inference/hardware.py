"""What the machine offers: the device, its fastest safe arithmetic, and an allocator that keeps memory."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from medseg.config import Precision
from medseg.errors import ConfigError
from medseg.networks.arithmetic import bf16_pays
from medseg.provenance import usable_cores

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of two glibc settings (malloc.h)."""

LARGEST_KEPT = 128 << 20
"""Bytes of the largest block that freed memory is kept for: maps of a layer are smaller, scans and what logits are
stitched in are larger. Kept, these would leave holes that little fits into: 250 MB at 512x512x256."""

LARGEST_INT = 2**31 - 1
"""The largest value mallopt takes."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where a Linux container's share of processor time is written: quota and period in µs, or 'max'."""

MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a Linux container's share of memory is written: bytes, or 'max'."""

PROCESS = Path("/proc/self")


def choose_device(name: str = "auto", number: int = 0) -> torch.device:
    """Return the device for 'auto' (a GPU if there is one), 'cpu', 'cuda' or 'cuda:1'.

    Parameters
    ----------
    number : of several workers, the number of this one: 'auto' and 'cuda' give each the next GPU.

    Raises
    ------
    ConfigError
        If the name is none of these, or there is no such GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and name in ("auto", "cuda"):
        return torch.device("cuda", number % count)
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is unknown; write auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} was asked for, but torch sees {count} GPU(s); use auto or cpu")
    return device


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the arithmetic of the network's layers; float32 means no autocast.

    auto takes bf16 where the device is faster with it (GPUs from compute capability 8, CPUs by `bf16_pays`), fp16 on
    older GPUs, float32 otherwise. bf16 keeps float32's range, so nothing overflows.
    """
    if precision == "float32" and device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # convolutions would round to 10 bits
    named = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.bfloat16 if bf16_pays() else torch.float32


def keep_memory() -> bool:
    """Tell glibc to keep freed memory instead of handing it back; returns whether it listened.

    A network allocates and frees the same hundreds of MB at every layer. By default each is a new
    mapping whose pages the kernel zeroes one by one: a quarter to a half of the time of a forward pass
    on CPUs (1.14 s -> 0.72 s for a 96³ window in float32). Blocks above `LARGEST_KEPT`, and other
    allocators, are unaffected. Process-wide: call it once at start-up.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST_INT))


def fit_threads(limit: int | None = None) -> int:
    """Let torch use no more threads than this process has cores for, and return their number.

    torch counts the machine's cores; in a container with two of sixty-four it would start thirty-two
    threads that fight for them. A lower setting (``OMP_NUM_THREADS``) is respected.

    Parameters
    ----------
    limit : use at most this many, None: all that are there.
    """
    threads = min(torch.get_num_threads(), usable_cores(), _quota_cores(), limit or sys.maxsize)
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return threads


def _quota_cores() -> int:
    """Return the cores' worth of time a container grants, at least 1; a huge number without a limit."""
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return sys.maxsize if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return sys.maxsize


def usable_memory() -> int:
    """Return the bytes of memory of this machine, or what a container grants of them; 4 GB where nobody says."""
    sizes = []
    with suppress(OSError, ValueError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            sizes.append(int(file.read_text(encoding="ascii")))
    return min(sizes, default=4 << 30)


def limit_memory(gigabytes: float) -> bool:
    """Let allocations of this process fail beyond a limit instead of taking the machine's last memory.

    Returns whether the system does so. The limit is on writable private memory (RLIMIT_DATA), not on
    addresses, of which CUDA reserves hundreds of GB.
    """
    if not sys.platform.startswith("linux"):
        return False
    import resource  # Windows has none

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    return True


def reset_peak_memory(device: torch.device) -> None:
    """Begin to watch the highest use of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """Return the highest use of memory since the reset, MB: "resident" of the process, "gpu" of torch's tensors.

    Linux only for "resident"; elsewhere it is left out.
    """
    peaks = {}
    with suppress(OSError, StopIteration):
        lines = (PROCESS / "status").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        peaks["resident"] = round(int(kilobytes) * 1024 / 1e6, 1)
    if device.type == "cuda":
        peaks["gpu"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks
