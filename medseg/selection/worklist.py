"""Rank the scans of a folder by how much a person's labels on them would teach.

    OUT/next.csv      rank, case, score, why
    OUT/sources.csv   which case is which file, readable by its owner only

Scans that are labelled already, copies of others, and scans that can't be read are left out, each with its
reason. Case ids are those of `medseg segment`: pseudonyms of DICOM series, names of NIfTI files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.batch.faults import fault_of
from medseg.batch.listing import Listing, list_cases, write_sources
from medseg.batch.places import check_can_be_made, check_places
from medseg.catalog.anonymous import without_file_names, without_names
from medseg.catalog.datasets import MOST_UNNAMED
from medseg.catalog.identity import safe_name
from medseg.catalog.index import index_scans
from medseg.catalog.listing import stem
from medseg.errors import ConfigError, DatasetError, ScanError
from medseg.inference.hardware import choose_device, fit_threads, keep_memory
from medseg.io.scan import case_files, read_case
from medseg.io.tables import write_csv
from medseg.networks.model import load_model
from medseg.provenance import learnt_cases
from medseg.selection.appearance import Parts, describe_appearance, to_points
from medseg.selection.doubt import Observer, View
from medseg.selection.strategies import Candidates, Strategy, check_strategy, choose
from medseg.text import shown
from medseg.volume import Case, Volume

SPARSE = 4
"""Stride of the voxels that tell most scans from masks already."""

Watcher = Callable[[int, int], None]
"""Called after each scan that was looked at, with how many were and how many there are."""


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """What is wanted.

    Attributes
    ----------
    count : how many scans.
    labelled : scans that have labels already, a file or a folder; they are covered, and never chosen.
    seed : of all that is drawn.
    device : auto, cpu, cuda, or one GPU such as cuda:1.
    key : key file of the pseudonyms.
    pseudonymize : name NIfTI scans by pseudonyms, too.
    """

    count: int = 5
    strategy: Strategy = "uncertainty-diversity"
    labelled: Path | None = None
    seed: int = 0
    device: str = "auto"
    key: Path | None = None
    pseudonymize: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """One scan to label; `score` is what its strategy chose it by, None where it was drawn."""

    rank: int
    case: str
    score: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Worklist:
    """The scans to label next.

    Attributes
    ----------
    ranked : the most useful first.
    available : number of scans that could be chosen.
    left_out : case and reason of those that could not.
    """

    ranked: tuple[Ranked, ...]
    available: int
    left_out: tuple[tuple[str, str], ...]


def rank_scans(
    scans: Path,
    output: Path,
    model: Path | None = None,
    options: SelectionOptions | None = None,
    watcher: Watcher | None = None,
) -> Worklist:
    """Choose the scans to label next and write the tables.

    Parameters
    ----------
    scans : a NIfTI file, or any tree of NIfTI files and DICOM series; never written to.
    output : folder of the tables; not inside `scans`.
    model : model folder; None: nothing was labelled yet, scans are chosen by what they look like.

    Raises
    ------
    ConfigError
        If a wish is impossible: no scan wanted, or a strategy that needs a model.
    DatasetError
        If there is no scan to choose from, or the labelled scans turn out to be masks.
    ModelError, OutputError
        If the model can't be used, or the tables can't be written.
    """
    options = options or SelectionOptions()
    _check(options, model)
    check_places(scans, output)
    check_can_be_made(output)
    pool = _Pool(model, options, watcher)
    listing = pool.find(scans)
    labelled = pool.find(options.labelled).cases if options.labelled else ()
    pool.cover(labelled)
    pool.fill(listing)
    if not pool.cases:
        reasons = f"; {pool.left_out[0][1]}" if pool.left_out else ""
        raise DatasetError(f"{scans}: there is no unlabelled scan to choose from{reasons}")
    ranked = pool.rank()
    write_csv(output / "next.csv", ["rank", "case", "score", "why"], [_row(item) for item in ranked])
    write_sources(output, ((item.case, listing.sources[item.case]) for item in ranked))
    return Worklist(ranked, len(pool.cases), tuple(pool.left_out))


def _check(options: SelectionOptions, model: Path | None) -> None:
    if options.count < 1:
        raise ConfigError(f"--n must be at least 1, not {options.count}")
    check_strategy(options.strategy, has_model=model is not None)


def _row(item: Ranked) -> tuple[int, str, float | None, str]:
    return item.rank, item.case, None if item.score is None else round(item.score, 4), item.why


class _Pool:
    """The scans that can be chosen, and those that they are compared with."""

    def __init__(self, model: Path | None, options: SelectionOptions, watcher: Watcher | None) -> None:
        self.options, self.watcher = options, watcher
        self.observer: Observer | None = None
        if model:
            keep_memory()
            fit_threads()
            device = choose_device(options.device)
            self.observer = Observer(load_model(model, device), device)
        self.cases: list[str] = []
        self.views: list[View] = []
        self.parts: list[Parts] = []
        self.covered: list[Parts] = []
        self.left_out: list[tuple[str, str]] = []
        self._seen: dict[str, str] = {}

    def find(self, scans: Path) -> Listing:
        """Return the cases below a folder."""
        catalog = index_scans(scans, key=self.options.key)
        if self.options.pseudonymize:
            catalog = without_names(catalog, self.options.key)
        return list_cases(catalog, len(self.observer.model.plan.channels) if self.observer else 1)

    def cover(self, labelled: Sequence[Case]) -> None:
        """Take scans that are labelled already; raises `DatasetError` if masks are among them."""
        masks = [case.id for case in labelled if _is_mask(case)]
        if masks:
            raise DatasetError(
                f"{len(masks)} of the {len(labelled)} files in {self.options.labelled} look like masks: "
                f"{shown(masks)}; give the folder of the scans that they were drawn on"
            )
        for case in labelled:
            described = self._describe(case)
            if described:
                self.covered.append(described[0])

    def fill(self, listing: Listing) -> None:
        """Take the scans that can be chosen, by name, and say of the others why not."""
        self.left_out += [(result.case, result.message) for result in listing.rejected]
        learnt = set(self._learnt())
        cases = sorted(listing.cases, key=lambda case: case.id)
        for number, case in enumerate(cases, start=1):
            if {case.id, safe_name(stem(listing.sources[case.id]))} & learnt:
                self.left_out.append((case.id, f"{case.id}: the model learnt from a scan of this name"))
            elif described := self._describe(case):
                parts, view = described
                self.cases.append(case.id)
                self.parts.append(parts)
                self.views += [view] if view else []
            if self.watcher:
                self.watcher(number, len(cases))

    def rank(self) -> tuple[Ranked, ...]:
        """Return the chosen scans."""
        points = to_points([*self.parts, *self.covered])
        count = len(self.parts)
        learnt = len(self._learnt())
        candidates = Candidates(points[:count], points[count:], tuple(self.views), learnt)
        rng = np.random.default_rng(self.options.seed)
        choices = choose(candidates, self.options.count, self.options.strategy, rng)
        return tuple(
            Ranked(rank, self.cases[choice.index], choice.score, choice.why)
            for rank, choice in enumerate(choices, start=1)
        )

    def _learnt(self) -> tuple[str, ...]:
        return learnt_cases(self.observer.model.provenance) if self.observer else ()

    def _describe(self, case: Case) -> tuple[Parts, View | None] | None:
        """Return what a scan is like; None, with a reason left, if it is a copy or can't be compared."""
        files = case_files(case)
        try:
            volume, _ = read_case(case)
            digest = _digest(volume)
            if digest in self._seen:
                self.left_out.append((case.id, f"{case.id}: the same image as {self._seen[digest]}"))
                return None
            view = self.observer.look(volume) if self.observer else None
            parts = view.parts if view else describe_appearance(volume)
        except Exception as error:
            message = fault_of(case.id, error).message
            if self.options.pseudonymize:
                message = without_file_names(message, files, case.id)
            self.left_out.append((case.id, message))
            return None
        self._seen[digest] = case.id
        known = self.parts or self.covered
        if known and [part.shape for part in parts] != [part.shape for part in known[0]]:
            self.left_out.append((case.id, f"{case.id}: has another number of channels than the scans before it"))
            return None
        return parts, view


def _is_mask(case: Case) -> bool:
    """Tell whether a file holds nothing but a few whole numbers; one that can't be read is left out later, with why."""
    try:
        volume, _ = read_case(case)
    except (ScanError, MemoryError):
        return False
    return all(_are_labels(values) for values in (volume.array[..., ::SPARSE, ::SPARSE, ::SPARSE], volume.array))


def _are_labels(voxels: NDArray[np.float32]) -> bool:
    values = np.unique(voxels)
    return len(values) <= MOST_UNNAMED and bool((values >= 0).all() and (values == np.rint(values)).all())


def _digest(volume: Volume) -> str:
    """Return the digest of a scan's voxels: copies are compressed, have other headers, or are NIfTI made of DICOM."""
    digest = sha256(str(volume.array.shape).encode())
    for channel in volume.array:
        for plane in channel.T:
            digest.update(plane.tobytes())
    return digest.hexdigest()
