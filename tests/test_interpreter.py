"""Functions are called in processes of their own."""

import subprocess
import sys
from pathlib import Path

from medseg.interpreter import command_of


def test_places_of_modules_that_are_no_text_are_passed_over_as_python_does(monkeypatch):
    """As a notebook adds them; what is not text finds no module, and does no harm."""
    monkeypatch.setattr(sys, "path", [Path("mine"), *sys.path])
    done = subprocess.run(command_of("medseg.text:first_line", "one\ntwo"), check=False, capture_output=True, text=True)
    assert done.stderr == "one\n", "what sys.exit shows of text"
