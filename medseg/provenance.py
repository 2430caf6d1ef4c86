"""What a result was made from and by: versions, machine, digests, time.

Imports nothing heavy: versions are read from the packages' metadata, not by importing them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "medseg", "torch", "monai", "numpy", "scipy", "nibabel", "pydicom", "highdicom", "safetensors", "lightning-fabric",
)  # fmt: skip
"""Packages whose version can change a result."""

BLOCK = 1 << 20
"""Bytes read at once while digesting."""

DIGEST_THREADS = 4
"""hashlib lets other threads run while it works; beyond four the disk is the limit."""


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the installed version of each package; those not installed are left out."""
    versions = ((package, _version(package)) for package in packages)
    return {package: version for package, version in versions if version is not None}


def medseg_version() -> str:
    """Return the version of medseg; "unknown" where it runs without being installed."""
    return _version("medseg") or "unknown"


def machine() -> dict[str, Any]:
    """Return the system, processor, usable cores and memory (GB); no host or user name."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gb": _memory_gb(),
    }


def processor() -> str:
    """Return the processor's name, such as "AMD EPYC" or "Intel(R) Xeon(R) Processor"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def learnt_cases(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of the cases that a model has learnt from by their masks, also by way of other models.

    Examples
    --------
    >>> learnt_cases({"training_cases": ["c", "a"], "also_learnt": ["b"]})
    ('c', 'a', 'b')
    """
    return (*provenance.get("training_cases", ()), *provenance.get("also_learnt", ()))


def usable_cores() -> int:
    """Return how many cores this process may use, which a container may limit below the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def timestamp() -> str:
    """Return the time now as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal.

    Examples
    --------
    >>> digest_bytes(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Return the digest of a JSON value; the order of keys makes no difference.

    Examples
    --------
    >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    True
    """
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def digest_files(paths: Iterable[Path]) -> str:
    """Return one digest for the contents of several files, in their order; names don't count.

    Raises
    ------
    OSError
        If a file can't be read.
    """
    files = list(paths)
    if len(files) <= 1:
        digests = [digest_file(path) for path in files]
    else:
        with ThreadPoolExecutor(DIGEST_THREADS) as threads:
            digests = list(threads.map(digest_file, files))
    return digest_bytes("\n".join(digests).encode())


@cache
def _version(package: str) -> str | None:
    """Return a package's version; parsing its metadata takes milliseconds, and a batch asks for every case."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file; raises `OSError` if it can't be read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None
