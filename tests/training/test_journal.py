"""What a training shows of itself."""

from __future__ import annotations

from medseg.training.journal import Journal


def test_a_run_that_goes_on_shows_the_steps_that_are_done(tmp_path, capsys):
    with Journal(tmp_path / "fit", 30, screen=True) as journal:
        journal.resumed(30)
    assert "30/30" in capsys.readouterr().out
