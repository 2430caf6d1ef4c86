"""``medseg segment`` ends with a report; ``medseg report`` writes it again."""

from __future__ import annotations

import json


def test_a_batch_ends_with_a_report_that_can_be_written_again(medseg, model, scans, tmp_path):
    output = tmp_path / "out"
    done = medseg("segment", scans, "-m", model, "-o", output)
    assert done.exit_code == 0
    assert "report.html" in done.stdout
    first = (output / "report.html").read_text()
    assert all(name in first for name in ("a_scan", "b_scan", "other"))
    record = json.loads((output / "cases" / "other" / "case.json").read_text())
    assert set(record["features"]["uncertainty"]) == {"liver", "kidney"}
    (output / "report.html").unlink()
    again = medseg("report", output)
    assert again.exit_code == 0
    assert (output / "report.html").read_text() == first
    assert len((output / "worklist.csv").read_text().splitlines()) == 4


def test_a_folder_without_results_is_refused_in_one_sentence(medseg, tmp_path):
    done = medseg("report", tmp_path)
    assert done.exit_code == 2
    assert "run.json" in done.stderr


def test_a_report_may_be_left_out(medseg, model, scans, tmp_path):
    assert medseg("segment", scans, "-m", model, "-o", tmp_path / "out", "--no-report").exit_code == 0
    assert not (tmp_path / "out" / "report.html").exists()
