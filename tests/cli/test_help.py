"""Help is there at once, for every verb, with an example that could be typed."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

import pytest

VERBS = (
    "index",
    "convert",
    "plan",
    "prepare",
    "pretrain",
    "train",
    "distill",
    "prune",
    "export",
    "pseudo-label",
    "next",
    "segment",
    "serve",
    "listen",
    "evaluate",
    "demo",
)


def test_help_names_every_verb(medseg):
    shown = medseg("--help")
    assert shown.exit_code == 0
    assert all(re.search(rf"^\W*{verb}\b", shown.stdout, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_an_example_of_itself(medseg, verb):
    shown = medseg(verb, "--help")
    assert shown.exit_code == 0
    assert f"Example: medseg {verb}" in shown.stdout


@pytest.mark.parametrize(
    ("verb", "extras"), [("export", ("onnx", "openvino")), ("segment", ("viewer", "ray")), ("report", ("viewer",))]
)
def test_names_of_extras_are_not_taken_for_markup(medseg, verb, extras):
    shown = medseg(verb, "--help").stdout
    assert all(f"medseg[{extra}]" in shown for extra in extras)


@pytest.mark.parametrize("verb", ["distill", "prune"])
def test_help_says_that_a_student_is_trained_as_its_model_was(medseg, verb):
    shown = medseg(verb, "--help").stdout
    assert "own training" in shown
    assert "every field's" not in shown


def test_no_verb_shows_the_help(medseg):
    assert "segment" in medseg().output


def test_version(medseg):
    assert re.fullmatch(r"medseg \d+\.\d+\.\d+\n", medseg("--version").stdout)


def test_help_takes_less_than_half_a_second_and_loads_nothing_heavy():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "medseg", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # processor time: the wall clock also counts whatever else the machine does
    assert min(seconds() for _ in range(3)) < 0.5
    heavy = "('numpy', 'torch', 'monai', 'pydantic', 'nibabel', 'pydicom', 'matplotlib', 'polars')"
    code = f"import sys, medseg.cli\nprint([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"
