"""What a dataset folder lists, by names alone: scans, masks and the documents that describe them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.catalog.documents import DatasetJson
from medseg.catalog.entries import UNREAD_ENDINGS
from medseg.errors import DatasetError
from medseg.io.nifti_header import NIFTI_ENDINGS, split_ending
from medseg.volume import Case

SLICE_ENDINGS = (".dcm", ".ima")
"""Endings of DICOM files, for those that have one."""

CHANNEL_SUFFIX = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
"""nnU-Net's names of scans with several channels: case_0000, case_0001, ..."""

LIST_WORDS = {"training": "train", **dict.fromkeys(("val", "valid", "validating"), "validation"), "testing": "test"}
"""What tables and splits files also call the lists train, validation and test."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A dataset as its files and documents describe it.

    Attributes
    ----------
    layout : how it is laid out, in words.
    cases : with and without mask.
    channels : names of the channels; empty if nothing names them.
    document : the dataset.json beside the cases; None if there is none.
    lists : named lists of case ids that the layout itself holds, such as "validation".
    """

    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ()
    document: DatasetJson | None = None
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def with_ids(cases: Iterable[Case], ids: Mapping[str, str]) -> tuple[Case, ...]:
    """Return cases called as `identity.safe_ids` says, and so the patients that are called after cases."""
    return tuple(replace(case, id=ids[case.id], patient=ids.get(case.patient, case.patient)) for case in cases)


def list_name(word: str) -> str:
    """Return what medseg calls a list of a table or a splits file: under an unknown name test cases would train.

    Examples
    --------
    >>> list_name("Val"), list_name("testing"), list_name("few")
    ('validation', 'test', 'few')
    """
    return LIST_WORDS.get(word.lower(), word.lower())


def stem(path: Path) -> str:
    """Return a scan's name without its NIfTI ending.

    Examples
    --------
    >>> stem(Path("images/liver_3.nii.gz")), stem(Path("images/series_7"))
    ('liver_3', 'series_7')
    """
    return split_ending(path.name)[0]


def case_name(path: Path) -> str:
    """Return the name of the case that a scan is a channel of; of a scan without a channel number its own.

    Examples
    --------
    >>> case_name(Path("imagesTr/liver_3_0000.nii.gz")), case_name(Path("images/liver_3.nii.gz"))
    ('liver_3', 'liver_3')
    """
    match = CHANNEL_SUFFIX.match(stem(path))
    return match["case"] if match else stem(path)


def list_scans(folder: Path) -> dict[str, Path]:
    """Return the scans of a folder by name: its NIfTI files, and its subfolders as DICOM series.

    Raises
    ------
    DatasetError
        If two scans have one name, or a scan has a format that medseg doesn't read.
    """
    paths = visible(folder)
    files = _niftis(folder, [path for path in paths if not path.is_dir()])
    return _by_name(folder, [*files, *(path for path in paths if path.is_dir())])


def list_masks(folder: Path) -> dict[str, Path]:
    """Return the masks of a folder by name; raises `DatasetError` as `list_scans`."""
    return _by_name(folder, _niftis(folder, [path for path in visible(folder) if path.is_file()]))


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds, by name, without hidden files (macOS leaves ``._`` twins on shared disks)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _niftis(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the NIfTI files, of a pair its header; refuse other formats of scans."""
    headers = {stem(path) for path in files if path.name.lower().endswith((".hdr", ".hdr.gz"))}
    for path in files:
        if path.name.lower().endswith(UNREAD_ENDINGS):
            raise DatasetError(f"{folder.name}/{path.name}: medseg reads NIfTI and DICOM; convert it to NIfTI first")
        if path.name.lower().endswith(SLICE_ENDINGS):
            raise DatasetError(
                f"{folder.name}/{path.name}: the DICOM slices of each case belong in a folder of their own, "
                f"{folder.name}/<case>/"
            )
    niftis = [path for path in files if path.name.lower().endswith(NIFTI_ENDINGS)]
    return [path for path in niftis if not (path.name.lower().endswith((".img", ".img.gz")) and stem(path) in headers)]


def _by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = stem(path) if path.is_file() else path.name
        if name in found:
            raise DatasetError(
                f"{folder.name}/ holds {found[name].name} and {path.name}: case {name} is there twice; keep one"
            )
        found[name] = path
    return found
