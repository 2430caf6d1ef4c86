"""A prepared case: patches are read out of it, whether it lies in memory or on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from medseg.boxes import Box, box_at
from medseg.errors import CacheError
from medseg.geometry import Grid
from medseg.labels import IGNORE_INDEX
from medseg.preprocessing.prepare import Prepared, surround


class Patch(NamedTuple):
    """A box cut out of a case.

    Attributes
    ----------
    image : (C, X, Y, Z) float32, normalised.
    target : (X, Y, Z) uint8 class indices; 255 ignore, which an unlabelled case is all over.
    weight : (X, Y, Z) uint8, how much each target counts, 255 fully; None: all of them do.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    weight: NDArray[np.uint8] | None = None


class Voxels(NamedTuple):
    """A case's voxels as they are stored, or those of a box in it; None where the case has no such array.

    Attributes
    ----------
    image : (C, X, Y, Z) float16.
    target, weight : (X, Y, Z) uint8.
    """

    image: NDArray[np.float16]
    target: NDArray[np.uint8] | None
    weight: NDArray[np.uint8] | None

    def crop(self, box: Box) -> Voxels:
        """Return what lies within a box; target and weight are the caller's own."""
        target, weight = (None if array is None else array[box].copy() for array in (self.target, self.weight))
        return Voxels(self.image[(slice(None), *box)], target, weight)


@dataclass(frozen=True, slots=True, eq=False)
class VoxelFile:
    """Voxels on disk, of which a box is read when it is asked for."""

    path: Path

    def crop(self, box: Box) -> Voxels:
        """Return what lies within a box; raises `CacheError` if the file can't be read any more."""
        # opened for each box (50 µs): a large data set would run out of file handles otherwise
        try:
            with safe_open(self.path, framework="numpy") as entry:
                names = set(entry.keys())
                target, weight = (
                    entry.get_slice(name)[box] if name in names else None for name in ("target", "weight")
                )
                return Voxels(entry.get_slice("image")[(slice(None), *box)], target, weight)
        except (OSError, SafetensorError) as error:
            raise CacheError(f"{self.path}: the cache entry can't be read any more ({error}); prepare again") from None


@dataclass(frozen=True, slots=True, eq=False)
class CachedCase:
    """A prepared case, in memory or on disk; safe to read from several threads.

    Attributes
    ----------
    id : the case's name.
    grid, source_grid : its grid, and the grid of the scan.
    pad : (C,) value of each channel outside the scan (`pad_values`).
    foreground : class index -> (n, 3) int32 voxel positions, at most `cache.FOREGROUND_LIMIT`, drawn once;
        classes that don't occur are missing, as are background and ignore.
    store : its voxels, or the file that holds them.
    labelled : whether there is a target.
    weighted : whether its voxels have weights: a pseudo-label.
    key : names all that the voxels were made from (`cache.entry_key`).
    modality : that the scan states; "" where it states none.
    """

    id: str
    grid: Grid
    source_grid: Grid
    pad: NDArray[np.float32]
    foreground: Mapping[int, NDArray[np.int32]]
    store: Voxels | VoxelFile
    labelled: bool
    weighted: bool = False
    key: str = ""
    modality: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size in voxels."""
        return self.grid.shape

    def read(self, start: Sequence[int], size: Sequence[int]) -> Patch:
        """Return the box of `size` voxels from `start`, which may reach beyond the scan.

        Outside the scan the image is `pad` and the target background (ignored, where the case is
        unlabelled), of weight 0 in a case of weighted voxels: no teacher looked there. Only the box is
        read; the arrays are the caller's own.
        """
        box = [(max(0, s), min(n, s + length)) for s, length, n in zip(start, size, self.shape, strict=True)]
        x, y, z = (slice(low, max(low, high)) for low, high in box)
        if any(window.start == window.stop for window in (x, y, z)):
            crop = Voxels(np.empty((len(self.pad), 0, 0, 0), dtype=np.float16), None, None)
        else:
            crop = self.store.crop((x, y, z))
        # torch converts float16 four times faster than numpy 2.4, at the cost of a view
        image = torch.from_numpy(crop.image).float().numpy()
        before = [window.start - first for window, first in zip((x, y, z), start, strict=True)]
        outside = 0 if self.labelled else IGNORE_INDEX
        return Patch(
            surround(image, before, size, self.pad),
            _within(crop.target, before, size, outside),
            _within(crop.weight, before, size, 0) if self.weighted else None,
        )

    def whole(self) -> tuple[Prepared, NDArray[np.uint8]]:
        """Return the whole case: image with its grids, and target."""
        patch = self.read((0, 0, 0), self.shape)
        return Prepared(patch.image, self.grid, self.source_grid, self.modality), patch.target


def _within(
    array: NDArray[np.uint8] | None, before: Sequence[int], shape: Sequence[int], outside: int
) -> NDArray[np.uint8]:
    """Return an array (or none) within a larger one of `shape` that is `outside` around it."""
    if array is not None and array.shape == tuple(shape):
        return array
    result = np.full(tuple(shape), outside, dtype=np.uint8)
    if array is not None:
        result[box_at(before, array.shape)] = array
    return result
