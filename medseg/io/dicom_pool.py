"""Read the headers of many DICOM files, on several cores where that pays.

Parsing is Python code, so threads don't help. The workers are plain child processes of the interpreter
fed through pipes: unlike `multiprocessing` they neither import the caller's script again nor copy a
process that has threads.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

from medseg.errors import ScanError
from medseg.interpreter import command_of
from medseg.io.dicom_headers import SliceHeader, quiet_pydicom, read_headers

Result = tuple[SliceHeader, ...] | ScanError

MIN_FILES = 1500
"""Files below which starting workers (0.4 s each) costs more than it saves."""

MAX_WORKERS = 8


def read_many(paths: Sequence[Path]) -> Iterator[Result]:
    """Return the headers of each file in order, or the error that refuses it."""
    quiet_pydicom()
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    if len(paths) < MIN_FILES or workers == 1:
        return map(read_one, paths)
    bounds = [len(paths) * number // workers for number in range(workers + 1)]
    parts = [list(paths[start:stop]) for start, stop in pairwise(bounds)]
    with ThreadPoolExecutor(workers - 1) as pool:
        elsewhere = pool.map(_read_elsewhere, parts[1:])
        here = [read_one(path) for path in parts[0]]  # this process is a worker too
        return chain(here, *elsewhere)


def read_one(path: Path) -> Result:
    """Return a file's headers, or the error that refuses it."""
    try:
        return read_headers(path)
    except ScanError as error:
        return error


def work() -> None:
    """Answer the list of paths on standard input with their results on standard output."""
    quiet_pydicom()
    paths = pickle.load(sys.stdin.buffer)
    pickle.dump([read_one(path) for path in paths], sys.stdout.buffer)


def _read_elsewhere(paths: list[Path]) -> list[Result]:
    """Let a child process read; its warnings, which may quote a patient's data, are thrown away."""
    done = subprocess.run(
        command_of("medseg.io.dicom_pool:work"),
        input=pickle.dumps(paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:  # killed, say for memory: the files themselves may still be sound
        return [read_one(path) for path in paths]
    results: list[Result] = pickle.loads(done.stdout)
    return results
