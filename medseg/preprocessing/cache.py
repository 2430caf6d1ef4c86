"""Prepared cases on disk, named after what they were made from.

One safetensors file a case, ``<folder>/<key[:2]>/<key>.safetensors``: a float16 image, uint8 class
indices, uint8 weights of a pseudo-label's voxels, positions of each class, and the grids. The key digests
the *contents* of the scan, mask and weight files, the part of the plan and of the label map that
preparation depends on, and `CACHE_VERSION`. So a changed source, plan or code can't meet an old entry,
equal cases share one, and entries of other plans live side by side. (MONAI's PersistentDataset serves
stale volumes after each of these changes.)

Entries appear whole (written beside, renamed): a killed writer leaves nothing that would be read. An
entry that is damaged nevertheless is noticed when the case is prepared and made again: by its structure
always, by its checksum where it is loaded into memory.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medseg.errors import LabelError, ReasonCode, ScanError
from medseg.geometry import Grid, reorder
from medseg.io.files import atomic_file
from medseg.io.nifti import read_mask
from medseg.io.nifti_header import scan_files
from medseg.io.scan import read_case, source_files
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.plan import Plan
from medseg.preprocessing.cached_case import CachedCase, VoxelFile, Voxels
from medseg.preprocessing.prepare import pad_values, prepare_image, prepare_mask, prepare_weight
from medseg.provenance import digest_files, digest_json
from medseg.volume import Case

CACHE_VERSION = 2
"""Raised with every change of code that changes an entry's content."""

FOREGROUND_LIMIT = 10_000
"""Positions kept of each class: enough to centre patches on, small beside the image."""

FLOAT16_LIMIT = float(np.finfo(np.float16).max)

log = logging.getLogger(__name__)


class Cache:
    """A folder of prepared cases.

    Parameters
    ----------
    folder : made when first written to; safe to share between runs and processes.
    ram_gb : small cases are kept in memory until this many GB are used; the others are read from disk.
    """

    def __init__(self, folder: Path, ram_gb: float = 4.0) -> None:
        self.folder = folder
        self._free_bytes = int(ram_gb * 1e9)
        self._lock = Lock()

    def prepare(self, cases: Sequence[Case], plan: Plan, labels: LabelMap, threads: int = 1) -> list[CachedCase]:
        """Return the cases ready for reading, in their order; those without an entry are prepared first.

        Raises
        ------
        ScanError, LabelError
            If a case can't be read or prepared; the message names it.
        OutputError
            If an entry can't be written.
        """
        with ThreadPoolExecutor(max(1, threads), thread_name_prefix="medseg-prepare") as pool:
            pending = [pool.submit(self._prepare_one, case, plan, labels) for case in cases]
            try:
                return [future.result() for future in pending]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _prepare_one(self, case: Case, plan: Plan, labels: LabelMap) -> CachedCase:
        key = entry_key(case, plan, labels)
        path = self.folder / key[:2] / f"{key}.safetensors"
        try:
            return self._open(path, case.id)
        except FileNotFoundError:
            pass
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            log.warning("cache entry of case %s is damaged (%s); preparing it again", case.id, error)
        write_entry(path, *_prepare_arrays(case, plan, labels))
        return self._open(path, case.id)

    def _open(self, path: Path, case: str) -> CachedCase:
        """Open an entry; any error means that it is damaged or missing."""
        with safe_open(path, framework="numpy") as entry:
            description = json.loads(entry.metadata()["medseg"])
            names = set(entry.keys())
            if names != set(description["checksums"]):
                raise ValueError(f"it holds {sorted(names)}")
            positions, classes = entry.get_tensor("positions"), entry.get_tensor("classes")
            store: Voxels | VoxelFile = VoxelFile(path)
            if self._reserve(path.stat().st_size):
                arrays = {name: entry.get_tensor(name) for name in sorted(names)}
                if description["checksums"] != {name: _checksum(array) for name, array in arrays.items()}:
                    raise ValueError("its checksum is wrong")
                store = Voxels(arrays["image"], arrays.get("target"), arrays.get("weight"))
        return CachedCase(
            id=case,
            key=path.stem,
            grid=_read_grid(description["grid"]),
            source_grid=_read_grid(description["source_grid"]),
            pad=np.array(description["pad"], dtype=np.float32),
            foreground={int(index): positions[classes == index] for index in np.unique(classes)},
            store=store,
            labelled="target" in names,
            weighted="weight" in names,
            modality=description["modality"],
        )

    def _reserve(self, size: int) -> bool:
        """Take `size` bytes from the memory budget if they are left."""
        with self._lock:
            if size > self._free_bytes:
                return False
            self._free_bytes -= size
            return True


def entry_key(case: Case, plan: Plan, labels: LabelMap) -> str:
    """Return the digest of everything that a case's entry depends on.

    Raises
    ------
    ScanError
        If one of its files can't be read.
    """
    try:
        images = [digest_files(source_files(source)) for source in case.images]
        mask, weight = (_digest(path) for path in (case.mask, case.weight))
    except OSError as error:
        raise ScanError(
            ReasonCode.UNREADABLE, f"case {case.id}: {error.filename}: can't be read ({error.strerror})"
        ) from None
    return digest_json(
        {
            "version": CACHE_VERSION,
            "images": images,
            "policies": [source.policy.model_dump(mode="json") for source in case.images],
            "mask": mask,
            "plan": plan.model_dump(mode="json", include={"spacing", "normalisation", "channels"}),
            "labels": [labels.values, _labels_of(case, labels).ignore] if mask else None,
            **({"weight": weight} if weight else {}),  # an entry without weights keeps the key it always had
        }
    )


def write_entry(path: Path, arrays: Mapping[str, NDArray], description: Mapping[str, Any]) -> None:
    """Write an entry so that it appears whole, with a checksum of each array."""
    checksums = {name: _checksum(array) for name, array in arrays.items()}
    metadata = {"medseg": json.dumps({**description, "checksums": checksums})}
    with atomic_file(path) as temporary:
        save_file(dict(arrays), temporary, metadata)


def foreground_positions(target: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return voxel positions (n, 3) of the foreground and their class (n,), at most a limit of each class.

    Of a larger class a random subset is kept; the same target always gives the same one.
    """
    flat = np.flatnonzero((target != 0) & (target != IGNORE_INDEX))
    classes = target.ravel()[flat]
    rng = np.random.default_rng(0)
    kept = []
    for index in np.unique(classes):
        members = flat[classes == index]
        if len(members) > FOREGROUND_LIMIT:
            members = np.sort(rng.choice(members, FOREGROUND_LIMIT, replace=False, shuffle=False))
        kept.append(members)
    chosen = np.concatenate(kept) if kept else flat
    positions = np.stack(np.unravel_index(chosen, target.shape), axis=1).astype(np.int32)
    return positions, target.ravel()[chosen]


def _prepare_arrays(case: Case, plan: Plan, labels: LabelMap) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Return the arrays and the description of a case's entry."""
    volume, mask = read_case(case)
    with _naming(case):
        prepared = prepare_image(volume, plan)
        target = None if mask is None else prepare_mask(mask, _labels_of(case, labels), prepared.grid)
        weight = None if case.weight is None else _read_weight(case.weight, volume.grid, prepared.grid)
    # float16 keeps 11 bits: 5e-4 of a normalised intensity, far below the noise of any scanner
    half = np.clip(prepared.image, -FLOAT16_LIMIT, FLOAT16_LIMIT).astype(np.float16)
    positions, classes = foreground_positions(np.zeros((1, 1, 1), np.uint8) if target is None else target)
    arrays: dict[str, NDArray] = {"image": half, "positions": positions, "classes": classes}
    if target is not None:
        arrays["target"] = target
    if weight is not None:
        arrays["weight"] = weight
    description = {
        "grid": _write_grid(prepared.grid),
        "source_grid": _write_grid(prepared.source_grid),
        "pad": pad_values(plan).tolist(),
        "modality": prepared.modality,
    }
    return arrays, description


def _read_weight(path: Path, source: Grid, grid: Grid) -> NDArray[np.uint8]:
    """Return a file's voxel weights, of a scan on `source`, on the network's grid."""
    mask = read_mask(path)
    stored = reorder(mask.array, mask.grid, source)
    if stored.dtype != np.uint8:
        raise LabelError(f"its weights {path.name} reach {stored.max()}; they are 0 to 255")
    return prepare_weight(stored, source, grid)


def _labels_of(case: Case, labels: LabelMap) -> LabelMap:
    """Return the labels of a case's mask: a pseudo-label ignores 255, whatever people's masks ignore.

    Raises
    ------
    LabelError
        If 255 is a label.
    """
    if case.weight is None or labels.ignore == IGNORE_INDEX:
        return labels
    if IGNORE_INDEX in labels.values:
        raise LabelError(
            f"case {case.id}: a pseudo-label ignores the value {IGNORE_INDEX}, which is a label here; give the label "
            "another value"
        )
    return labels.model_copy(update={"ignore": IGNORE_INDEX})


def _digest(path: Path | None) -> str | None:
    return digest_files(dict.fromkeys(scan_files(path))) if path else None


@contextmanager
def _naming(case: Case) -> Iterator[None]:
    """Put the case's name before errors of functions that don't know it."""
    try:
        yield
    except ScanError as error:
        raise type(error)(error.code, f"case {case.id}: {error}") from error
    except LabelError as error:
        raise LabelError(f"case {case.id}: {error}") from error


def _checksum(array: NDArray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)


def _write_grid(grid: Grid) -> dict[str, Any]:
    return {"shape": grid.shape, "affine": grid.affine.tolist()}


def _read_grid(description: Mapping[str, Any]) -> Grid:
    return Grid(tuple(description["shape"]), np.array(description["affine"]))
