"""Feed medseg damaged files and watch: a sound result or a `MedsegError`, nothing else.

    python benchmarks/ingest/fuzz.py nifti --seeds 20000
    python benchmarks/ingest/fuzz.py dicom --seeds 20000 --first 100000
    python benchmarks/ingest/fuzz.py dicom --only 562 1155

Each seed number makes a file or a series (`mutations.py`), which is read in a child process that may use
`MEMORY_BYTES` more memory than it had at the start and `SECONDS` of processor time per seed. A crash, a
hang, another exception, or a result of another shape than the header states ends in the list of failures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import signal
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from mutations import write_dicom, write_nifti
from pydicom import dcmread

from medseg.catalog.index import index_scans
from medseg.errors import MedsegError
from medseg.io.nifti import inspect_nifti, read_mask, read_nifti, write_mask
from medseg.io.scan import read_scan
from medseg.volume import Mask, Source, Volume

SECONDS = 2
"""Processor time that one seed may take: it does not depend on what else the machine does."""

PATIENCE_SECONDS = 60
"""Time without progress after which a child hangs without working, as on a pipe or a lock."""

MEMORY_BYTES = 1 << 29
"""Address space that reading damaged files of some kilobytes may add."""


SCRATCH = Path("/dev/shm")
"""Files are best made in memory: what medseg writes it waits for, on a busy disk for longer than all the rest."""


class UnsoundError(AssertionError):
    """medseg returned what the file does not hold."""


def check_nifti(folder: Path, seed: int) -> str:
    """Read the damaged NIfTI file of a seed in every way; return how it ended, in a word.

    Raises
    ------
    UnsoundError
        If a result has another shape than the header states, is not finite, or its mask is misplaced.
    """
    path = write_nifti(folder, seed)
    stated = stated_sizes(path)
    words = []
    for read in (read_nifti, lambda path: read_nifti(path, channels_last=True), read_mask):
        try:
            result = read(path)
        except MedsegError as error:
            words.append(str(getattr(error, "code", type(error).__name__)))
            continue
        words.append("read")
        demand(result.grid.shape == (*stated, 1, 1)[:3], "another shape")
        if isinstance(result, Volume):
            demand(result.array.size == np.prod(stated), "another number of values")
            demand(bool(np.isfinite(result.array).all()), "values that are not finite")
            demand(inspect_nifti(path, channels_last=True).grid.matches(result.grid), "another grid than the header's")
            check_mask(folder / "mask.nii.gz", Source("nifti", (path,)), result)
    return words[0]


def check_dicom(folder: Path, seed: int) -> str:
    """Index and read the damaged series of a seed; return how it ended, in a word.

    Raises
    ------
    UnsoundError
        If a file is lost, or a result has another shape than catalogue or header state.
    """
    write_dicom(folder, seed)
    files = set(folder.iterdir())
    catalog = index_scans(folder, key=folder.parent / "key")
    listed = [file for entry in catalog.entries for file in entry.files]
    demand(set(listed) == files, "files that the catalogue lost")
    words = [str(entry.reason) for entry in catalog.entries if entry.source is None]
    for entry in catalog.entries:
        if entry.source is None:
            continue
        try:
            volume = read_scan(entry.source)
        except MedsegError as error:
            words.append(f"reading: {getattr(error, 'code', type(error).__name__)}")
            continue
        words.append("read")
        demand(volume.grid.shape == entry.shape, "another shape than the catalogue's")
        demand(bool(np.isfinite(volume.array).all()), "values that are not finite")
        first = dcmread(entry.source.files[0], force=True, stop_before_pixels=True)
        demand((first.Columns, first.Rows) == volume.grid.shape[:2], "another matrix than the header's")
        planes = int(first.get("NumberOfFrames") or 1) if len(entry.source.files) == 1 else len(entry.source.files)
        demand(volume.grid.shape[2] == planes, "another number of slices")
        if seed % 4 == 0:  # writing takes as long as reading
            check_mask(folder.parent / "mask.nii.gz", entry.source, volume)
    return " + ".join(sorted(set(words)))


def check_mask(path: Path, source: Source, volume: Volume) -> None:
    """Write a mask on what was read, and compare it as another library reads it."""
    mask = Mask(np.ones(volume.grid.shape, np.uint8), volume.grid)
    try:
        write_mask(path, mask, source)
    except MedsegError:
        return
    written = nib.load(path)
    demand(written.shape == volume.grid.shape, "a mask of another size")
    demand(bool(np.asarray(written.dataobj).all()), "another mask")


def demand(condition: bool, otherwise: str) -> None:
    """Raise `UnsoundError` unless the condition holds."""
    if not condition:
        raise UnsoundError(otherwise)


def stated_sizes(path: Path) -> tuple[int, ...]:
    """Return the sizes that a NIfTI header states, read by `struct` alone; () where there are none."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = zlib.decompressobj(wbits=31).decompress(raw, 600)
        except zlib.error:
            return ()
    for order in "<>":
        for size, layout, place in ((348, "8h", 40), (540, "8q", 16)):
            if len(raw) >= size and struct.unpack_from(order + "i", raw)[0] == size:
                dim = struct.unpack_from(order + layout, raw, place)
                return tuple(dim[1 : 1 + max(0, min(dim[0], 7))])
    return ()


CHECKS: dict[str, Callable[[Path, int], str]] = {"nifti": check_nifti, "dicom": check_dicom}


def run_seeds(kind: str, seeds: Sequence[int], scratch: Path, log: Path, current) -> None:
    """Check seeds in this process, which `current` tells the parent; write what became of each to `log`."""
    warnings.simplefilter("ignore")
    for warm in range(30):  # imports and decoders are no part of what a file may use
        one_seed(kind, warm, scratch)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with log.open("a") as stream:
        for seed in seeds:
            current.value = seed
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process
            outcome = one_seed(kind, seed, scratch)
            stream.write(json.dumps([seed, *outcome]) + "\n")
            stream.flush()


def one_seed(kind: str, seed: int, scratch: Path) -> tuple[str, str]:
    """Return ("ended", word) or ("failed", what was raised)."""
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return "ended", CHECKS[kind](folder, seed)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return "failed", f"{type(error).__name__}: {error}"[:300]


def fuzz(kind: str, seeds: Sequence[int]) -> tuple[Counter, list[tuple[int, str]]]:
    """Check seeds in child processes; return how often each outcome was met, and the failures."""
    failures: list[tuple[int, str]] = []
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(dir=SCRATCH if SCRATCH.is_dir() else None) as scratch:
        log = Path(scratch) / "log"
        log.touch()
        while seeds:
            current = context.Value("q", seeds[0], lock=False)
            child = context.Process(target=run_seeds, args=(kind, seeds, Path(scratch), log, current))
            child.start()
            if _watch(child, current):
                break
            reason = "no progress" if child.exitcode == -signal.SIGKILL else f"exit status {child.exitcode}"
            failures.append((current.value, "hang" if child.exitcode == -signal.SIGPROF else reason))
            seeds = seeds[seeds.index(current.value) + 1 :]
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    failures += [(seed, text) for seed, word, text in lines if word == "failed"]
    return Counter(text for _, word, text in lines if word == "ended"), sorted(failures)


def _watch(child, current) -> bool:
    """Wait for a child; end it if it stands still. Return whether it did all its seeds."""
    seen, since = None, time.monotonic()
    while child.is_alive():
        child.join(0.2)
        if current.value != seen:
            seen, since = current.value, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            child.kill()
    return child.exitcode == 0


def main() -> None:
    """Fuzz as the command line says, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=CHECKS)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", metavar="SEED")
    arguments = parser.parse_args()
    started = time.monotonic()
    outcomes, failures = fuzz(
        arguments.kind, arguments.only or range(arguments.first, arguments.first + arguments.seeds)
    )
    for outcome, times in outcomes.most_common():
        print(f"{times:7d}  {outcome}")
    for seed, text in failures:
        print(f"FAILED {arguments.kind} {seed}: {text}")
    print(f"{sum(outcomes.values())} seeds, {len(failures)} failures, {time.monotonic() - started:.0f} s")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
