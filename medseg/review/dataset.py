"""Reviewed cases as a dataset to train on: ``dataset/cases.csv`` and ``labels.json``, which `medseg train` reads.

Accepted and corrected masks that hold are in it; rejected, flagged and disputed cases are not. Joined to the
dataset that the model came from, a reviewed case takes the place of the unlabelled case of the same name or scan: a
DICOM series, or a scan with a pseudonym, is called otherwise there. A mask that a person drew there is never
replaced, and cases that are held out stay held out.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from os.path import commonpath, relpath
from pathlib import Path

from medseg.catalog.datasets import Dataset, stated_labels
from medseg.catalog.identity import safe_ids
from medseg.catalog.layouts import read_listing
from medseg.catalog.listing import Listing, with_ids
from medseg.catalog.sources import scan_digest, sound_case
from medseg.config import IngestConfig
from medseg.errors import DatasetError
from medseg.io.files import write_text
from medseg.io.nifti import write_volume
from medseg.io.scan import inspect_scan, read_case
from medseg.io.tables import OWNER_ONLY, write_csv
from medseg.labels import LabelMap
from medseg.review.folder import DATASET, SCANS, ReviewFolder
from medseg.review.results import standing_versions
from medseg.review.versions import mask_path
from medseg.volume import Case, Source

TABLE = "cases.csv"
LABELS = "labels.json"


def reviewed_cases(review: ReviewFolder) -> tuple[Case, ...]:
    """Return the cases behind whose masks a person stands, with these masks."""
    return tuple(
        Case(
            id=version.case,
            images=tuple(Source("nifti", (review.path / image,)) for image in review.case(version.case).images),
            mask=mask_path(review, version),
            patient=review.case(version.case).patient,
        )
        for version in standing_versions(review)
        if version.is_usable
    )


def write_dataset(review: ReviewFolder, original: Path | None = None, channels: Sequence[str] = ()) -> tuple[Case, ...]:
    """Write the reviewed cases, or an original dataset and the reviewed cases, as a table of paths.

    The table is readable by its owner only, because paths of the original may name patients.

    Parameters
    ----------
    original : dataset folder, or its CSV or JSON file.
    channels : what a model calls its channels, which a fine-tuning of it compares; default: as the original does.

    Returns
    -------
    tuple of Case
        The reviewed cases that it holds.

    Raises
    ------
    DatasetError
        If the original can't be read, or has other labels or channels.
    LabelError
        If what says its labels is no label map.
    ScanError
        If a scan that tells how channels are to be kept, or that is kept otherwise, can't be read.
    OutputError
        If it can't be written.
    """
    reviewed = reviewed_cases(review)
    listing = read_original(original, review) if original else None
    twins = twins_of(reviewed, [_in_order(case) for case in listing.cases], review) if listing else {}
    kept = _unlabelled(listing, reviewed, twins) if listing else reviewed
    originals, folder = listing.cases if listing else (), review.path / DATASET
    cases = _replaced(originals, _in_as_many_files(kept, originals, folder), replaced_by(kept, twins))
    named = tuple(channels) or (listing.channels if listing else ())
    _write(folder, cases, named, _splits(listing, kept), review.labels)
    return kept


def read_original(original: Path, review: ReviewFolder) -> Listing:
    """Return the listing of a dataset to join, its cases called as those of the review are.

    Raises
    ------
    DatasetError
        If it can't be read, or its own files state other labels than the review's.
    LabelError
        If what says its labels is no label map.
    """
    listing = read_listing(original)
    stated = stated_labels(listing, original if original.is_dir() else original.parent)
    if stated:
        review.check_labels(stated, "the original dataset")
    ids = safe_ids(case.id for case in listing.cases)
    lists = {name: tuple(ids.get(id_, id_) for id_ in listed) for name, listed in listing.lists.items()}
    return replace(listing, cases=with_ids(listing.cases, ids), lists=lists)


def twins_of(reviewed: Iterable[Case], cases: Sequence[Case], review: ReviewFolder) -> dict[str, frozenset[str]]:
    """Return, for each reviewed case, the ids of the others that are the same: by name, or by their scans' contents.

    Raises
    ------
    DatasetError
        If a scan can't be read.
    """
    contents = {case.id: scan_digest(case) for case in cases}
    return {
        case.id: frozenset(
            id_ for id_, source in contents.items() if id_ == case.id or source == review.case(case.id).source
        )
        for case in reviewed
    }


def replaced_by(new: Sequence[Case], twins: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the ids of the cases whose place new ones take."""
    return frozenset().union(*(twins.get(case.id, ()) for case in new))


def write_joined(folder: Path, original: Dataset, new: Sequence[Case], replaced: Container[str]) -> None:
    """Write a dataset together with new labelled cases, which train; who is held out stays held out.

    What configuration and files said of splits, patients and channels is in the table, which is readable by its owner
    only.

    Parameters
    ----------
    replaced : ids of the unlabelled cases whose place the new ones take.

    Raises
    ------
    DatasetError
        If the new cases don't have as many image files as those of the dataset.
    ScanError
        If a scan that tells how channels are to be kept, or that is kept otherwise, can't be read.
    OutputError
        If it can't be written.
    """
    cases = _replaced(original.cases, _in_as_many_files(new, original.cases, folder), replaced)
    lists = {"train": (*original.train, *(case.id for case in new))}
    lists |= {"validation": original.validation, "test": original.test}
    splits = {id_: name for name, ids in lists.items() for id_ in ids}
    named = () if original.channels == ("image",) else original.channels
    _write(folder, cases, named, splits, original.labels)


def _replaced(cases: Sequence[Case], new: Sequence[Case], replaced: Container[str]) -> list[Case]:
    return sorted([*(case for case in cases if case.id not in replaced), *new], key=lambda case: case.id)


def _in_as_many_files(new: Sequence[Case], cases: Sequence[Case], folder: Path) -> tuple[Case, ...]:
    """Return new cases in as many image files as the dataset's are in.

    Channels along the fourth axis of one file there come in files of their own from a review: here they are put
    together again, in files in `folder`.
    """
    if all(len(case.images) == 1 for case in new) or not cases or len(cases[0].images) > 1:
        return tuple(new)
    channels = inspect_scan(cases[0].images[0], channels_last=True).channels
    return tuple(_in_one_file(case, folder) if len(case.images) == channels > 1 else case for case in new)


def _in_one_file(case: Case, folder: Path) -> Case:
    path = folder / SCANS / f"{case.id}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, read_case(case)[0])
    return replace(case, images=(Source("nifti", (path,)),))


def _write(
    folder: Path, cases: Sequence[Case], channels: Sequence[str], splits: Mapping[str, str], labels: LabelMap
) -> None:
    """Write the table of cases, the labels, and the channels' names where no column of the table has them."""
    columns = _image_columns(cases, channels)
    header = ["case", "patient", *columns, "mask", *(["split"] if splits else [])]
    rows = [
        [
            case.id,
            "" if case.patient == case.id else case.patient,  # what `dataset.patients` finds in the name
            *(_path(source, folder) for source in case.images),
            relpath(case.mask, folder) if case.mask else "",
            *([splits.get(case.id, "")] if splits else []),
        ]
        for case in cases
    ]
    write_csv(folder / TABLE, header, rows, mode=OWNER_ONLY)
    write_text(folder / LABELS, json.dumps(labels.model_dump(mode="json"), indent=1) + "\n")
    if len(columns) == 1 < len(channels):
        names = {str(number): name for number, name in enumerate(channels)}
        write_text(folder / "dataset.json", json.dumps({"channel_names": names}, indent=1) + "\n")


def _in_order(case: Case) -> Case:
    """Return a case with the slices of its DICOM series in order; one that only a policy accepts stays as it is."""
    try:
        return sound_case(case, IngestConfig())[0]
    except DatasetError:
        return case


def _unlabelled(listing: Listing, reviewed: tuple[Case, ...], twins: Mapping[str, frozenset[str]]) -> tuple[Case, ...]:
    """Return the reviewed cases but those that the original has a mask of, or holds out."""
    held_out = {id_ for name, ids in listing.lists.items() if name != "train" for id_ in ids}
    fixed = held_out | {case.id for case in listing.cases if case.mask}
    return tuple(case for case in reviewed if not twins[case.id] & fixed)


def _image_columns(cases: Sequence[Case], channels: Sequence[str]) -> list[str]:
    counts = {len(case.images) for case in cases}
    if len(counts) > 1:
        raise DatasetError(
            f"the original dataset has {max(counts)} image files a case and the review {min(counts)}, or the other way "
            "round; both need the same channels"
        )
    count = counts.pop() if counts else 1
    if len(channels) == count:
        return [f"image_{name}" for name in channels]
    if count == 1:
        return ["image"]
    return [f"image_{number}" for number in range(1, count + 1)]


def _splits(listing: Listing | None, kept: tuple[Case, ...]) -> Mapping[str, str]:
    """Return the list that each case is on; reviewed cases train."""
    if not listing or not listing.lists:
        return {}
    splits = {id_: name for name, ids in listing.lists.items() for id_ in ids}
    return {**splits, **({case.id: "train" for case in kept} if "train" in listing.lists else {})}


def _path(source: Source, folder: Path) -> str:
    place = Path(commonpath([path.parent for path in source.files])) if source.kind == "dicom" else source.files[0]
    return relpath(place, folder)
