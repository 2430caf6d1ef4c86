"""Check before a run that its folders can be what they are meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import exists, realpath
from pathlib import Path

from medseg.catalog.anonymous import PSEUDONYM
from medseg.errors import ConfigError, OutputError
from medseg.io.files import atomic_file

PROBE_BYTES = 1 << 20
"""What must fit on the disk for a run to go on after a failed write."""


def check_places(scans: Path, output: Path, *, what: str = "output folder") -> None:
    """Refuse a missing scan folder, and an output folder within it: the next run would take results for scans."""
    if not scans.exists():
        raise ConfigError(f"{scans}: there is no such file or folder; give the folder that holds the scans")
    inside, outside = output.resolve(), scans.resolve()
    if inside == outside or (scans.is_dir() and inside.is_relative_to(outside)):
        raise OutputError(f"the {what} {output} lies inside the scan folder {scans}; choose one outside it")


def check_links(scans: Iterable[Path], output: Path) -> None:
    """Refuse scans that links lead to in the output folder: masks would be segmented, or inputs written over."""
    target, folders = output.resolve(), dict[Path, Path]()
    for path in scans:
        if path.parent not in folders:
            folders[path.parent] = Path(realpath(path.parent))
        # Path.resolve raises where a link leads to itself
        place = Path(realpath(path)) if path.is_symlink() else folders[path.parent]
        if place.is_relative_to(target):
            raise OutputError(f"scans lie in the output folder {output}, or a link leads there; choose another one")


def check_names(cases: Path, *, ending: str = "") -> None:
    """Refuse a folder with results that are called by their files: pseudonyms beside them would hide nothing."""
    results = cases.glob(f"[!.]*{ending}")
    named = [path for path in results if not PSEUDONYM.fullmatch(path.name.removesuffix(ending))]
    if named:
        raise OutputError(f"{cases} has {len(named)} cases called by their files' names; choose a new output folder")


def check_writable(folder: Path) -> None:
    """Write and remove a megabyte in `folder`; raises `OutputError` saying why that fails."""
    with atomic_file(folder / ".probe") as probe:
        probe.write_bytes(bytes(PROBE_BYTES))
    (folder / ".probe").unlink(missing_ok=True)  # another worker may have looked at the same time


def check_can_be_made(folder: Path) -> None:
    """Refuse, before work begins, a folder that could not be written in the end; it is not made.

    Raises
    ------
    OutputError
        If nothing can be written where it is, or, as long as it is missing, where it would be made.
    """
    place = folder
    while not exists(place) and place != place.parent:
        place = place.parent
    check_writable(place)
