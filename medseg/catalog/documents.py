"""The documents beside a dataset: JSON and YAML files, and what a ``dataset.json`` says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medseg.errors import DatasetError, LabelError
from medseg.labels import LabelMap
from medseg.text import first_line


def read_document(path: Path) -> Any:
    """Return what a JSON or YAML file holds; raises `DatasetError` if it can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return yaml.safe_load(text) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text)
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file") from None
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: not valid JSON (line {error.lineno}: {error.msg})") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: not readable ({first_line(error)})") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the 'name: value' pairs that a JSON or YAML file holds; raises `DatasetError` for anything else."""
    document = read_document(path)
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: 'name: value' pairs are expected, not {type(document).__name__}")
    return {str(key): value for key, value in document.items()}


def parse_labels(definition: Any, where: str) -> LabelMap:
    """Return the label map that a document defines; raises `LabelError` naming the document.

    A value of 0 is the background, whatever the document calls it.
    """
    if not isinstance(definition, Mapping):
        raise LabelError(f"{where}: a label map is 'name: value' pairs, not {type(definition).__name__}")
    pairs = {key: value for key, value in definition.items() if "0" not in (str(key), str(value))}
    try:
        return LabelMap.parse(pairs)
    except LabelError as error:
        raise LabelError(f"{where}: {error}") from None


@dataclass(frozen=True, slots=True)
class DatasetJson:
    """A ``dataset.json`` as the Decathlon and nnU-Net write it; what it leaves out is empty.

    Attributes
    ----------
    path : where it lies; its own paths are relative to that folder.
    values : what it holds.
    """

    path: Path
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.values.get("name", ""))

    def channels(self) -> tuple[str, ...]:
        """Return the channels' names in order; empty if there are none.

        Raises
        ------
        DatasetError
            If they are not numbered from 0 without a gap.
        """
        names = self.values.get("channel_names", self.values.get("modality", {}))
        if isinstance(names, list):
            names = {str(number): name for number, name in enumerate(names)}
        if not isinstance(names, dict) or set(map(str, names)) != {str(number) for number in range(len(names))}:
            raise DatasetError(f'{self.path}: channel names are written as {{"0": "T1", "1": "T2"}}, not {names!r}')
        return tuple(str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0])))

    def labels(self) -> LabelMap | None:
        """Return the label map; None if there is none.

        Raises
        ------
        LabelError
            If it is inconsistent, or ``regions_class_order`` doesn't fit it.
        """
        if "labels" not in self.values:
            return None
        labels = parse_labels(self.values["labels"], str(self.path))
        order = self.values.get("regions_class_order")
        return _paint(labels, order, self.path) if labels.regions and order is not None else labels


def _paint(labels: LabelMap, order: Any, path: Path) -> LabelMap:
    """Let each region paint the value that nnU-Net's ``regions_class_order`` gives it."""
    if not isinstance(order, list) or len(order) != len(labels.regions):
        raise LabelError(f"{path}: regions_class_order needs {len(labels.regions)} values, one a region, not {order!r}")
    regions = [{**region.model_dump(), "paints": value} for region, value in zip(labels.regions, order, strict=True)]
    return LabelMap.parse({**labels.model_dump(), "regions": regions})
