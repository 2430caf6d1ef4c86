"""What the console leaves of a text, on a terminal and in a log."""

import io
import runpy
from pathlib import Path

import pytest
from rich.table import Table

from medseg.cli.safe_console import SafeConsole

LONG = "results/" + "/".join(["a folder with a long name"] * 5)
PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.py"))


def shown(what, **options):
    console = SafeConsole(file=io.StringIO(), width=80, **options)
    console.print(what)
    return console.file.getvalue()


def test_a_path_stays_in_one_piece_in_a_log():
    assert shown(f"Masks: {LONG}") == f"Masks: {LONG}\n"


def test_on_a_terminal_lines_end_between_words():
    lines = shown(LONG, force_terminal=True).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80


def test_a_table_is_as_wide_as_ever():
    table = Table("path")
    table.add_row(LONG)
    assert max(map(len, shown(table).splitlines())) <= 80


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_path_stays_in_one_piece_in_the_log_of_a_pipeline(path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    runpy.run_path(str(path))["screen"].print(f"model: {LONG}")
    assert capsys.readouterr().out == f"model: {LONG}\n"
