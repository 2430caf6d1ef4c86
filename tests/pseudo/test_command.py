"""The verb, from the command line to the table; teachers of random weights know nothing, and the verb says so."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from medseg.catalog.pseudo_labels import SUMMARY, read_records
from medseg.cli.app import app


@pytest.fixture
def command():
    runner = CliRunner()
    return lambda *words: runner.invoke(app, ["pseudo-label", *map(str, words)])


def test_the_verb_labels_and_says_where_to_look(command, write_run, make_experiment, blobs, tmp_path):
    run = write_run(tmp_path / "run", make_experiment(blobs), 2)
    out = tmp_path / "out"
    done = command("--run", run, "--output", out, "--set", "pseudo.leave_out=false", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "3 of 3 unlabelled scans can be learnt from (3 new)" in done.output
    assert (out / SUMMARY).is_file()
    assert len(read_records(out)) == 3
    again = command("--run", run, "--output", out, "--set", "pseudo.leave_out=false", "--device", "cpu")
    assert "(0 new)" in again.output


def test_what_is_left_out_is_named(command, write_run, make_experiment, blobs, tmp_path):
    run = write_run(tmp_path / "run", make_experiment(blobs), 2)
    done = command("--run", run, "--output", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "0 of 3" in done.output
    assert "left out u0: " in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run", "nowhere"), "no run folder"),
        (("--run", "{run}", "--set", "pseudo.precision=2"), "pseudo.precision"),
        (("--run", "{run}", "--data", "nowhere"), "nowhere"),
    ],
)
def test_wrong_input_is_one_sentence(command, write_run, make_experiment, blobs, tmp_path, words, message):
    run = write_run(tmp_path / "run", make_experiment(blobs), 2)
    done = command(*(word.format(run=run) for word in words), "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()
