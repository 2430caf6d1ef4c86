"""``medseg next``: a table on the screen, reasons, and one sentence for what can't be."""

from __future__ import annotations

import csv


def test_with_a_model(medseg, scans, model, tmp_path):
    result = medseg("next", scans, "--model", model, "--n", 2, "--output", tmp_path / "next")
    assert result.exit_code == 0
    rows = list(csv.DictReader((tmp_path / "next/next.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert all(row["case"] in result.stdout for row in rows)
    assert "2 of 3 scans" in result.stdout
    assert "doubt" in result.stdout


def test_before_anything_is_labelled(medseg, scans, tmp_path):
    result = medseg("next", scans, "--n", 9, "--output", tmp_path / "next")
    assert result.exit_code == 0
    assert "3 of 3 scans" in result.stdout


def test_what_can_t_be_is_one_sentence(medseg, scans, tmp_path):
    for words, sentence in [
        (["--strategy", "clever"], "there is no strategy 'clever'; there are uncertainty-diversity, random"),
        (["--strategy", "foreground-random"], "give --model"),
        (["--n", 0], "--n must be at least 1"),
    ]:
        result = medseg("next", scans, "--output", tmp_path / "next", *words)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "next").exists()
