"""Write docs/configuration.md from the configuration's models; `make docs` runs it.

Every field's meaning stands once, in medseg/config/ and medseg/plan.py. A test compares the page with
what this script would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from medseg.config import ExperimentConfig, IngestConfig, SegmentConfig
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

Written by `make docs` from the models in `medseg/config/` and `medseg/plan.py`; don't edit it by hand.

One YAML file describes a training run, and every field has a default. A field is changed in the file, or for one run
on the command line: `--set training.steps=500`. An unknown field or a wrong value ends the command at once, with all
problems listed. What was used is the first file of every run: `config.yaml`.

`configs/` holds complete files to start from.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page as Markdown."""
    stages = [(name, field.annotation) for name, field in ExperimentConfig.model_fields.items() if is_stage(field)]
    top = {name: field for name, field in ExperimentConfig.model_fields.items() if not is_stage(field)}
    parts = [HEAD, "## The run\n", table(top)]
    for name, stage in stages:
        parts += [f"\n## {name}\n\n{summary(stage)}\n", table(stage.model_fields)]
    parts += [
        f"\n## ingest\n\n{summary(IngestConfig)} `dataset.ingest` in the file; `--policy MISSING_SLICE=repair` for "
        "`medseg index`, `convert` and `segment`. What each code means: [ingest.md](ingest.md).\n",
        table(IngestConfig.model_fields),
    ]
    parts += [
        f"\n## Segmenting\n\n{summary(SegmentConfig)} Options of `medseg segment`, fields of "
        "`medseg.config.SegmentConfig` in Python.\n",
        table(SegmentConfig.model_fields),
    ]
    parts.append(
        "\n## plan.yaml\n\nWritten by `medseg plan` and `medseg train` into the run folder, from the data and the "
        "wishes above. It may be edited before training.\n"
    )
    parts.append(table(Plan.model_fields))
    for title, model in (("plan.yaml: network", NetworkPlan), ("plan.yaml: normalisation", ChannelNormalisation)):
        parts += [f"\n### {title}\n\n{summary(model)}\n", table(model.model_fields)]
    return "\n".join(parts) + "\n"


def table(fields: dict[str, FieldInfo]) -> str:
    """Return a table with a row a field: name, kind, default, meaning."""
    rows = ["| field | kind | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        rows.append(f"| `{name}` | {kind(field.annotation)}{bounds(field)} | {default(field)} | {field.description} |")
    return "\n".join(rows)


def is_stage(field: FieldInfo) -> bool:
    """Whether a field is a section with fields of its own."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def summary(model: type[BaseModel]) -> str:
    """Return the first line of a model's docstring."""
    return (model.__doc__ or "").strip().splitlines()[0]


def kind(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(kind(argument) for argument in arguments if argument is not NoneType)
    if origin is Annotated:
        narrowed, *limits = arguments
        return kind(narrowed) + "".join(bounds(field) for field in limits)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        if Ellipsis in arguments:
            return f"list of {kind(arguments[0])}"
        return f"{len(arguments)} × {kind(arguments[0])}"
    if origin is list:
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def bounds(field: FieldInfo) -> str:
    """Return the limits of a number, such as ' (≥ 0, < 1)'."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{signs[n]} {getattr(m, n)}" for m in field.metadata for n in signs if getattr(m, n, None) is not None]
    return f" ({', '.join(limits)})" if limits else ""


def default(field: FieldInfo) -> str:
    """Return a default as it would be written in YAML; '–' where leaving it out has its own meaning."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}):
        return "–"
    if isinstance(value, Path):
        return f"`{value}`"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value)


if __name__ == "__main__":
    main()
