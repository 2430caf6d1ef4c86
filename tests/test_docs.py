"""The pages that describe fields and commands say what the code says."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from medseg.config import ExperimentConfig, load_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_up_to_date():
    generator = load(ROOT / "docs" / "make_configuration.py")
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), "run `make docs`"


def test_a_narrowed_kind_is_in_words_with_its_limits():
    generator = load(ROOT / "docs" / "make_configuration.py")
    assert generator.kind(Annotated[int, Field(ge=0)] | Literal["auto"]) == "whole number (≥ 0) or `auto`"


def test_the_page_of_costs_says_what_was_measured():
    cost = load(ROOT / "benchmarks" / "batch" / "cost.py")
    measured = json.loads((ROOT / "benchmarks" / "batch" / "cost.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert cost.table(measured) in page, "run `python benchmarks/batch/cost.py table`"
    assert cost.stages(measured) in page


def test_every_field_has_a_meaning():
    def describe(model):
        for name, field in model.model_fields.items():
            yield name, field.description
            if hasattr(field.annotation, "model_fields"):
                yield from describe(field.annotation)

    assert [name for name, description in describe(ExperimentConfig) if not description] == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_file_is_valid(path):
    assert load_config(path).name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_yaml_examples_hold(page):
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert yaml.safe_load(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_pages_exists(page):
    """`medseg train --folds 5` in a page is only good if the verb and its options are there."""
    from typer.main import get_command

    from medseg.cli.app import app

    text = page.read_text(encoding="utf-8")
    code = "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`(medseg [^`]+)`", text)])
    verbs = get_command(app).commands
    for line in re.findall(r"^medseg ([a-z<].*)", code, re.MULTILINE):
        verb, *words = line.split()
        if verb == "<verb>":
            continue
        command = verbs[verb]
        if words and words[0] in getattr(command, "commands", {}):  # `medseg review export`: a verb of a verb
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        known.add("--help")
        asked = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert asked <= known, line
