"""What the values of a mask mean: names, colours, codes, regions and the ignore value.

Two kinds of target follow from a `LabelMap`:

* *classes*: the labels exclude each other; the network ends in a softmax over background + labels.
* *regions*: overlapping sets of labels, such as "kidney with its tumour" and "tumour" (the
  region-based training of nnU-Net); the network ends in one sigmoid a region. On the way back the
  regions are painted in their order, later over earlier, each with its own label value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from medseg.errors import LabelError
from medseg.records import Record
from medseg.text import first_line

DEFAULT_COLOURS = (
    (221, 130, 101), (128, 174, 128), (144, 120, 200), (216, 101, 79), (111, 184, 210), (244, 214, 49),
    (192, 104, 88), (183, 156, 220), (66, 140, 190), (230, 150, 200), (160, 190, 60), (110, 110, 230),
)  # fmt: skip
"""RGB colours given in turn to labels that have none: distinct on grey scans."""

IGNORE_INDEX = 255
"""Class index of voxels that give no gradient and count in no metric."""

MOST_LABELS = IGNORE_INDEX - 1
"""Labels that a training mask can hold: class indices are bytes, of which background and ignore take two."""

SIDE = re.compile(r"(?<![^\W\d_])(?:(left|right)(?![^\W\d_])|(lt|rt|lh|rh|l|r)(?![^\W_]))", re.IGNORECASE)
"""A word of its own, where underscores and numbers also part words (M1L, left1); but L5 is a vertebra."""

NEW_WORD = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")
"""Where a capital begins a word, as in LeftKidney."""


def side_in(name: str) -> tuple[str, str] | None:
    """Return the first word for a side in a name, in small letters, and the name without it; None if there is none.

    Examples
    --------
    >>> side_in("LeftKidney"), side_in("kidney_l"), side_in("vertebra_L5")
    (('left', '| kidney'), ('l', 'kidney |'), None)
    """
    words = NEW_WORD.sub(" ", name).replace("_", " ")
    found = SIDE.search(words)
    return (found[0].lower(), f"{words[: found.start()]}|{words[found.end() :]}".lower()) if found else None


Shade = Annotated[int, Field(ge=0, le=255)]
"""One of the three parts of a colour."""


class Code(Record):
    """A code of a terminology, such as SCT 10200004 (Liver)."""

    scheme: str = Field("SCT", description="Coding scheme designator; SCT is SNOMED CT")
    value: str = Field(description="The code, such as 10200004")
    meaning: str = Field(description="Its meaning in words, such as Liver")


class Label(Record):
    """One value of a mask."""

    value: int = Field(ge=1, le=65535, description="The value in the mask; 0 is always background")
    name: str = Field(min_length=1, description="The structure's name")
    colour: tuple[Shade, Shade, Shade] = Field(description="RGB, 0 to 255")
    code: Code | None = Field(None, description="What it is in a terminology (SNOMED CT)")
    within: str | None = Field(None, description="Name of the label it lies in, such as the organ of a lesion")
    lesion: bool = Field(False, description="Whether each connected part is a lesion of its own, to be measured singly")


class Region(Record):
    """A union of labels that the network learns as one output."""

    name: str = Field(min_length=1, description="The region's name, such as kidney_with_tumour")
    values: tuple[int, ...] = Field(min_length=1, description="The label values that it unites")
    paints: int = Field(ge=1, description="The label value written where this region is found, over earlier regions")


class LabelMap(Record):
    """The labels of a dataset or model.

    Examples
    --------
    >>> labels = LabelMap.parse({"liver": 1, "tumour": 2})
    >>> labels.values, labels.outputs
    ((1, 2), 3)
    """

    labels: tuple[Label, ...] = Field(min_length=1, description="The labels, by value")
    regions: tuple[Region, ...] = Field(
        (), description="Overlapping targets, in painting order, the larger first; empty: plain classes"
    )
    ignore: int | None = Field(
        None, ge=1, le=65535, description="Mask value of voxels that nobody labelled; never learnt from"
    )

    @model_validator(mode="after")
    def _check(self) -> LabelMap:
        values, names = self.values, [label.name for label in self.labels]
        problems = []
        if len(set(values)) < len(values):
            problems.append(f"label values repeat: {list(values)}")
        for kind, given in (("label", names), ("region", [region.name for region in self.regions])):
            if len(set(given)) < len(given):
                problems.append(f"{kind} names repeat: {given}")
        if self.ignore is not None and (self.ignore in values or self.ignore == 0):
            problems.append(f"the ignore value {self.ignore} is also a label")
        problems += [
            f"label {label.name!r} lies within {label.within!r}, which is no other label"
            for label in self.labels
            if label.within is not None and (label.within not in names or label.within == label.name)
        ]
        for region in self.regions:
            unknown = sorted({*region.values, region.paints} - set(values))
            if unknown:
                problems.append(f"region {region.name!r} names values without a label: {unknown}")
        problems += [
            f"region {inner.name!r} lies within {outer.name!r}, which is painted over it: list it after {outer.name!r}"
            for inner, outer in combinations(self.regions, 2)
            if set(inner.values) <= set(outer.values) and inner.paints != outer.paints
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @classmethod
    def parse(cls, definition: Mapping[str, Any]) -> LabelMap:
        """Read a label map from its short or its full form.

        Parameters
        ----------
        definition
            Short: name -> value, as in nnU-Net's and the Decathlon's ``dataset.json`` (either way
            round); ``background`` is left out, ``ignore`` names the ignore value. A list of values
            makes every entry a region, painted in the order given, with its smallest value that no
            region within it has. All of it may be within ``labels``, as in those files. Full: the
            fields of `LabelMap`; colours may be left out.

        Raises
        ------
        LabelError
            If it is neither, or inconsistent.
        """
        try:
            if isinstance(definition.get("labels"), Mapping):
                return cls.parse(definition["labels"])
            if "labels" in definition:
                labels = [
                    {"colour": default_colour(i), **label} if isinstance(label, Mapping) else label
                    for i, label in enumerate(definition["labels"])
                ]
                return cls.model_validate({**definition, "labels": labels})
            return _parse_short(definition)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "labels"
            raise LabelError(f"the label map is wrong at {where}: {first['msg']}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise LabelError(f"the label map can't be read ({error}); write it as 'name: value' pairs") from None

    @classmethod
    def from_values(cls, values: Iterable[int]) -> LabelMap:
        """Name labels after their values, for datasets that don't name them."""
        return cls.parse({f"label_{value}": int(value) for value in sorted(set(values) - {0})})

    @property
    def values(self) -> tuple[int, ...]:
        """The label values, without background and ignore."""
        return tuple(label.value for label in self.labels)

    @property
    def outputs(self) -> int:
        """Number of the network's output channels."""
        return len(self.regions) if self.regions else len(self.labels) + 1

    @property
    def targets(self) -> tuple[str, ...]:
        """Name of each foreground target, in channel order: the regions, or the labels."""
        return tuple(target.name for target in (self.regions or self.labels))

    @property
    def painted(self) -> NDArray:
        """Mask value of each decision of a network: 0, then that of each target in channel order.

        Examples
        --------
        >>> LabelMap.parse({"liver": 3, "spleen": 7}).painted.tolist()
        [0, 3, 7]
        """
        values = [region.paints for region in self.regions] if self.regions else self.values
        return np.array([0, *values], dtype=self.dtype)

    @property
    def dtype(self) -> np.dtype:
        """Integer type that holds every value, that of ignore too: uint8 or uint16."""
        return np.dtype(np.uint8 if max(*self.values, self.ignore or 0) <= 255 else np.uint16)

    @property
    def is_sided(self) -> bool:
        """Whether the name of a label or region says left or right: mirroring across that axis would swap meanings."""
        return any(side_in(name) for name in (*(label.name for label in self.labels), *self.targets))

    def with_lesions(self, names: Iterable[str]) -> LabelMap:
        """Return this map with exactly the labels of these names marked as lesions.

        Raises
        ------
        LabelError
            If a name is not that of a label.
        """
        wanted = set(names)
        unknown = sorted(wanted - {label.name for label in self.labels})
        if unknown:
            raise LabelError(f"no label is called {', '.join(unknown)}; the labels are {self.describe()}")
        marked = (label.model_copy(update={"lesion": label.name in wanted}) for label in self.labels)
        return self.model_copy(update={"labels": tuple(marked)})

    def members(self, target: int) -> tuple[int, ...]:
        """Return the mask values that belong to foreground target number `target` (from 0)."""
        return self.regions[target].values if self.regions else (self.labels[target].value,)

    def encode(self, mask: NDArray) -> NDArray[np.uint8]:
        """Return class indices 0..len(labels) for the mask's values; ignore becomes 255.

        Raises
        ------
        LabelError
            If the mask holds a value that this map doesn't know, or there are more than `MOST_LABELS`.
        """
        if len(self.labels) > MOST_LABELS:
            raise LabelError(f"{len(self.labels)} labels are more than the {MOST_LABELS} a training mask can hold")
        table = np.full(65536, -1, dtype=np.int16)
        table[[0, *self.values]] = range(len(self.labels) + 1)
        if self.ignore is not None:
            table[self.ignore] = IGNORE_INDEX
        indices = table[mask]
        if (indices < 0).any():
            unknown = sorted(int(v) for v in np.unique(mask[indices < 0]))
            raise LabelError(f"the mask holds values {unknown[:8]} that the label map doesn't know ({self.describe()})")
        return indices.astype(np.uint8)

    def decode(self, indices: NDArray) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return mask values for class indices 0..len(labels)."""
        return np.array([0, *self.values], dtype=self.dtype)[indices]

    def describe(self) -> str:
        """Return the labels as 'value name' pairs for messages."""
        return ", ".join(f"{label.value} {label.name}" for label in self.labels)


def load_label_map(path: Path) -> LabelMap:
    """Read the label map of a JSON or YAML file.

    The file holds the map itself, in either form, or has it under ``labels``: nnU-Net's and the
    Decathlon's ``dataset.json``, a model's ``model.json``, a batch's ``run.json``.

    Raises
    ------
    LabelError
        If the file can't be read, or holds no label map.
    """
    try:
        text = path.read_text(encoding="utf-8")
        definition = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LabelError(f"{path}: no readable label map ({first_line(error)})") from None
    if not isinstance(definition, Mapping):
        raise LabelError(f"{path}: a label map is 'name: value' pairs, not {type(definition).__name__}")
    return LabelMap.parse(definition)


def default_colour(position: int) -> tuple[int, int, int]:
    """Return the colour of the label at `position` when none is given."""
    return DEFAULT_COLOURS[position % len(DEFAULT_COLOURS)]


def _parse_short(definition: Mapping[str, Any]) -> LabelMap:
    pairs = dict(definition)
    if all(str(key).isdigit() for key in pairs):  # the Decathlon writes {"1": "liver"}
        pairs = {name: int(value) for value, name in pairs.items()}
    pairs.pop("background", None)
    ignore = pairs.pop("ignore", None)
    members = {name: _members(name, value) for name, value in pairs.items()}
    if any(isinstance(value, list | tuple) for value in pairs.values()):  # nnU-Net: then every entry is a region
        names = {values[0]: name for name, values in members.items() if len(values) == 1}
        present = sorted({value for values in members.values() for value in values})
        labels = [(value, names.get(value, f"label_{value}")) for value in present]
        regions = [
            Region(name=name, values=values, paints=_own_value(values, members.values()))
            for name, values in members.items()
        ]
    else:
        labels, regions = sorted((value, name) for name, (value,) in members.items()), []
    return LabelMap(
        labels=tuple(Label(value=value, name=name, colour=default_colour(i)) for i, (value, name) in enumerate(labels)),
        regions=tuple(regions),
        ignore=ignore,
    )


def _members(name: str, value: Any) -> tuple[int, ...]:
    """Return the label values of an entry, one or a list of them."""
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(_whole(name, member) for member in values)


def _whole(name: str, value: Any) -> int:
    """Return a label's value; `int` would take 1.5 and true for 1."""
    if value is None:
        raise ValueError(f"{name!r} has no value; in YAML a blank follows the colon, as in {{liver: 1}}")
    if isinstance(value, bool) or not float(value).is_integer():
        raise ValueError(f"{name!r} has the value {value!r}, which is no whole number")
    return int(float(value))


def _own_value(members: tuple[int, ...], regions: Iterable[tuple[int, ...]]) -> int:
    """Return the smallest value of a region that no region within it has; the first one, if each has it."""
    inner = [set(other) for other in regions if set(other) < set(members)]
    return min(set(members) - set().union(*inner), default=(*members, 0)[0])
