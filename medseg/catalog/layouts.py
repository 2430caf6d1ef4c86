"""Recognise the layout of a dataset folder and list its cases.

Accepted as they are: ``images/`` + ``labels/``, the Medical Segmentation Decathlon's ``dataset.json``,
nnU-Net's raw folders, and a CSV of paths. An image without a mask is an unlabelled case; a mask without
an image is an error. Test images (``imagesTs``, "test") stay out: they are kept to be measured on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.catalog.documents import DatasetJson, read_object
from medseg.catalog.listing import CHANNEL_SUFFIX, Listing, list_masks, list_scans, visible
from medseg.catalog.manifests import read_csv, read_decathlon, read_file_lists
from medseg.catalog.sources import scan_source
from medseg.errors import DatasetError
from medseg.text import shown
from medseg.volume import Case

LAYOUTS = (
    "images/ + labels/ with equal names, a Decathlon dataset.json, nnU-Net's imagesTr/ + labelsTr/, "
    "or a CSV with the columns image and mask"
)
"""The layouts, for messages."""


def read_listing(folder: Path) -> Listing:
    """List a dataset's cases.

    Parameters
    ----------
    folder : the dataset folder, or its CSV or JSON file.

    Raises
    ------
    DatasetError
        If it is missing, empty, of an unknown layout, or inconsistent.
    """
    if folder.is_file():
        return _read_file(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: there is no such dataset folder")
    entries = {path.name: path for path in visible(folder)}
    if not entries:
        raise DatasetError(f"{folder}: the dataset folder is empty; it needs {LAYOUTS}")
    document = _dataset_json(entries["dataset.json"]) if "dataset.json" in entries else None
    tables = [path for name, path in entries.items() if name.lower().endswith(".csv")]
    if document and "training" in document.values:
        return read_decathlon(document)
    if "imagesTr" in entries:
        return _read_nnunet(folder, document)
    if "images" in entries and "labels" in entries:
        return _read_paired(folder, document)
    if len(tables) == 1:
        return _read_table(tables[0])
    found = _found(list(entries.values()))
    asked = "name one of its tables with --data" if tables else "name the folder with --data"
    raise DatasetError(f"{folder}: unknown layout (found {found}); {asked}; a dataset is {LAYOUTS}")


def _read_file(path: Path) -> Listing:
    if path.suffix.lower() == ".csv":
        return _read_table(path)
    if path.suffix.lower() == ".json":
        document = _dataset_json(path)
        if "training" in document.values:
            return read_decathlon(document)
    raise DatasetError(f"{path}: not a dataset; name a folder, a CSV of paths or a Decathlon dataset.json")


def _read_table(path: Path) -> Listing:
    """List the cases of a CSV table; a dataset.json beside it may name labels and channels, as in a folder of scans."""
    listing, beside = read_csv(path), path.with_name("dataset.json")
    document = _dataset_json(beside) if beside.is_file() else None
    channels = listing.channels or (document.channels() if document else ())
    return replace(listing, channels=channels, document=document)


def _read_paired(folder: Path, document: DatasetJson | None) -> Listing:
    scans, masks = list_scans(folder / "images"), list_masks(folder / "labels")
    # A number at the end of every name is a channel, unless masks carry the same full names.
    numbered = all(CHANNEL_SUFFIX.match(name) for name in scans) and not masks.keys() & scans.keys()
    parts = _split_channels(scans) if numbered else {name: {0: path} for name, path in scans.items()}
    cases = _match(parts, masks, "images", "labels")
    return Listing("images/ + labels/", cases, document.channels() if document else (), document)


def _read_nnunet(folder: Path, document: DatasetJson | None) -> Listing:
    if document and "dataset" in document.values:
        cases = read_file_lists(document)
    else:
        if not (folder / "labelsTr").is_dir():
            raise DatasetError(f"{folder}: imagesTr/ is there but labelsTr/ with the masks is not")
        scans, masks = list_scans(folder / "imagesTr"), list_masks(folder / "labelsTr")
        odd = [name for name in scans if not CHANNEL_SUFFIX.match(name)]
        if odd:
            raise DatasetError(f"imagesTr/: {shown(odd)} lacks nnU-Net's channel number, as in case_0000.nii.gz")
        cases = _match(_split_channels(scans), masks, "imagesTr", "labelsTr")
    return Listing("nnU-Net raw", cases, document.channels() if document else (), document)


def _split_channels(scans: Mapping[str, Path]) -> dict[str, dict[int, Path]]:
    cases: dict[str, dict[int, Path]] = {}
    for name, path in scans.items():
        match = CHANNEL_SUFFIX.match(name)
        if match:
            cases.setdefault(match["case"], {})[int(match["channel"])] = path
    return cases


def _match(
    parts: Mapping[str, Mapping[int, Path]], masks: Mapping[str, Path], images: str, labels: str
) -> tuple[Case, ...]:
    orphans = sorted(masks.keys() - parts.keys())
    if orphans:
        raise DatasetError(
            f"{len(orphans)} masks in {labels}/ have no image of the same name in {images}/: {shown(orphans)}"
        )
    if not parts:
        raise DatasetError(f"{images}/ holds no scan: it needs NIfTI files, or a folder of DICOM slices for each case")
    _check_gapless(parts, images)
    return tuple(
        Case(id_, tuple(scan_source(channels[n], id_) for n in sorted(channels)), masks.get(id_))
        for id_, channels in sorted(parts.items())
    )


def _check_gapless(parts: Mapping[str, Mapping[int, Path]], images: str) -> None:
    """Refuse a case that lacks a channel before the missing one moves the others up."""
    wanted = set().union(*parts.values())
    for id_, channels in parts.items():
        missing = sorted(wanted - channels.keys())
        if missing:
            names = ", ".join(f"{id_}_{number:04d}" for number in missing)
            raise DatasetError(
                f"{images}/: case {id_} has {len(channels)} of {len(wanted)} channels; {names} is missing"
            )


def _dataset_json(path: Path) -> DatasetJson:
    return DatasetJson(path, read_object(path))


def _found(entries: Sequence[Path]) -> str:
    folders = [f"{path.name}/" for path in entries if path.is_dir()]
    files = [path.name for path in entries if not path.is_dir()]
    return shown([*folders, *files])
