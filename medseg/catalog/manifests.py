"""Datasets described by a file that names every scan: Decathlon and nnU-Net JSON, and CSV tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import exists  # False for what can't be a path; Path.exists raises
from pathlib import Path, PureWindowsPath
from typing import Any, TypeGuard

from medseg.catalog.documents import DatasetJson
from medseg.catalog.listing import Listing, case_name, list_name, stem
from medseg.catalog.sources import scan_source
from medseg.errors import DatasetError
from medseg.io.tables import plain
from medseg.text import shown
from medseg.volume import Case


def read_decathlon(document: DatasetJson) -> Listing:
    """List the cases of a Decathlon ``dataset.json``; its "validation" list, where there is one, is held out.

    Raises
    ------
    DatasetError
        If an entry is malformed or names a file that isn't there.
    """
    cases, lists = [], {}
    for section in ("training", "validation"):
        entries = document.values.get(section, [])
        if not isinstance(entries, list):
            raise DatasetError(f"{document.path}: {section!r} must be a list of image and label paths")
        listed = [_decathlon_case(document.path, f"{section}[{n}]", entry) for n, entry in enumerate(entries)]
        cases.extend(listed)
        lists[section] = tuple(case.id for case in listed)
    held = {"validation": lists["validation"]} if lists["validation"] else {}
    return Listing("Decathlon dataset.json", _sorted(cases), document.channels(), document, held)


def read_file_lists(document: DatasetJson) -> tuple[Case, ...]:
    """List the cases of an nnU-Net ``dataset.json`` that names its files: case -> images, label.

    Raises
    ------
    DatasetError
        If an entry is malformed or names a file that isn't there.
    """
    entries = document.values["dataset"]
    if not isinstance(entries, dict):
        raise DatasetError(f"{document.path}: 'dataset' must map each case to its images and label")
    cases = []
    for id_, entry in entries.items():
        where = f"{document.path}, dataset.{id_}"
        if not isinstance(entry, dict) or not _is_paths(entry.get("images")):
            raise DatasetError(f"{where}: a list 'images' of paths and a path 'label' are expected")
        cases.append(_case(document.path, where, _Row(id_, entry["images"], entry.get("label"))))
    return _sorted(cases)


def read_csv(path: Path) -> Listing:
    """List the cases of a CSV table.

    Columns: ``image``, or ``image_<channel>`` for each of several channels; ``mask`` (empty: unlabelled);
    and, where wanted, ``case`` (default: the image's name), ``patient`` and ``split`` (a word such as train,
    validation or test, see `list_name`). Paths are relative to the table, and may be written as on Windows.

    Raises
    ------
    DatasetError
        If a column is missing, unknown or there twice, a cell is empty that may not be, or a file isn't there.
    """
    columns, rows = _read_table(path)
    images = [column for column in columns if column == "image" or column.startswith("image_")]
    unknown = [column for column in columns if column not in {*images, "mask", "case", "patient", "split"}]
    repeated = len(set(columns)) < len(columns)  # the last would hold, and an empty one make cases unlabelled
    if not images or unknown or repeated or ("image" in images and len(images) > 1):
        wanted = "image (or image_<channel> for each channel), mask, case, patient, split"
        raise DatasetError(f"{path}: the columns are {', '.join(columns) or 'empty'}; they may be {wanted}, each once")
    cases: list[Case] = []
    lists: dict[str, list[str]] = {}
    for line, row in rows:
        paths = [_written_here(path.parent, row[column]) for column in images]
        if not all(paths):
            raise DatasetError(f"{path}, line {line}: every image column needs a path")
        id_ = row.get("case") or _default_id(paths)
        mask = _written_here(path.parent, row.get("mask", ""))
        cases.append(_case(path, f"{path}, line {line}", _Row(id_, paths, mask, row.get("patient", ""))))
        if row.get("split"):
            lists.setdefault(list_name(row["split"]), []).append(id_)
    return Listing(
        "CSV of paths",
        _sorted(cases),
        channels=() if images == ["image"] else tuple(column.removeprefix("image_") for column in images),
        lists={name: tuple(ids) for name, ids in lists.items()},
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A case as a document writes it: paths are text, relative to the document."""

    id: str
    images: Sequence[str]
    mask: str | None = None
    patient: str = ""


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns and, with their line numbers, the rows that hold anything."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sample = file.readline()
            file.seek(0)
            # Spreadsheets of many countries separate by semicolons.
            reader = csv.DictReader(file, delimiter=";" if sample.count(";") > sample.count(",") else ",")
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [(reader.line_num, _stripped(path, reader.line_num, row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a readable table ({error})") from None
    return columns, [(line, row) for line, row in rows if any(row.values())]


def _stripped(path: Path, line: int, row: Mapping[Any, Any]) -> dict[str, str]:
    if None in row:
        raise DatasetError(f"{path}, line {line}: there are more cells than columns")
    return {column: plain((cell or "").strip()) for column, cell in row.items()}


def _written_here(folder: Path, cell: str) -> str:
    """Return a table's path as this system writes it: one from Windows has backslashes, unless a file is called so."""
    return cell if not cell or exists(folder / cell) else PureWindowsPath(cell).as_posix()


def _decathlon_case(path: Path, where: str, entry: Any) -> Case:
    images = entry.get("image") if isinstance(entry, dict) else None
    paths = [images] if isinstance(images, str) else images
    if not _is_paths(paths):
        raise DatasetError(f"{path}, {where}: a path 'image' and a path 'label' are expected")
    return _case(path, f"{path}, {where}", _Row(_default_id(paths), paths, entry.get("label")))


def _case(path: Path, where: str, row: _Row) -> Case:
    """Resolve a row's paths; refuse one that names what isn't there."""
    if row.mask is not None and not isinstance(row.mask, str):
        raise DatasetError(f"{where}: the mask's path is {row.mask!r}, not text")
    if not row.id or row.id.startswith(".") or {"/", "\\"} & set(row.id):
        raise DatasetError(f"{where}: {row.id!r} can't be the name of a case, because its files are named after it")
    images = [path.parent / image for image in row.images]
    mask = path.parent / row.mask if row.mask else None
    missing = [file.name for file in (*images, *([mask] if mask else [])) if not exists(file)]
    if missing:
        raise DatasetError(f"{where}: {shown(missing)} is not there; paths are relative to {path.name}")
    return Case(row.id, tuple(scan_source(image, row.id) for image in images), mask, row.patient)


def _default_id(paths: Sequence[str]) -> str:
    """Return the first image's name; of several, without its channel number."""
    first = Path(paths[0])
    return case_name(first) if len(paths) > 1 else stem(first)


def _is_paths(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(path, str) for path in value)


def _sorted(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.id))
