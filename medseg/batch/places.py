"""Check before a run that its folders can be what they are meant to be."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import ConfigError, OutputError
from medseg.io.files import atomic_file

PROBE_BYTES = 1 << 20
"""What must fit on the disk for a run to go on after a failed write."""


def check_places(scans: Path, output: Path) -> None:
    """Refuse a missing scan folder, and an output folder within it: the next run would take results for scans."""
    if not scans.exists():
        raise ConfigError(f"{scans}: there is no such file or folder; give the folder that holds the scans")
    inside, outside = output.resolve(), scans.resolve()
    if inside == outside or (scans.is_dir() and inside.is_relative_to(outside)):
        raise OutputError(f"the output folder {output} lies inside the scan folder {scans}; choose one outside it")


def check_writable(folder: Path) -> None:
    """Write and remove a megabyte in `folder`; raises `OutputError` saying why that fails."""
    with atomic_file(folder / ".probe") as probe:
        probe.write_bytes(bytes(PROBE_BYTES))
    (folder / ".probe").unlink()
