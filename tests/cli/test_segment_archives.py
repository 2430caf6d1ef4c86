"""``medseg segment`` on an archive: one series of the study is segmented, once, wherever it is unpacked."""

from __future__ import annotations

import csv
import zipfile

from ..catalog.studies import write_study


def test_one_series_of_an_archive_is_segmented_once(medseg, model, tmp_path):
    write_study(tmp_path / "study", "CANARY thin", spacing=2.0)
    write_study(tmp_path / "study", "CANARY thick", spacing=5.0)
    (tmp_path / "scans").mkdir()
    with zipfile.ZipFile(tmp_path / "scans" / "export.zip", "w") as archive:
        for path in sorted((tmp_path / "study").rglob("*.dcm")):
            archive.write(path, f"CANARY/{path.parent.name}/{path.name}")
    (tmp_path / "rules.yaml").write_text("rules: [{modality: [CT]}]")
    output = tmp_path / "out"
    words = ["segment", tmp_path / "scans", "-m", model, "-o", output, "--series-rule", tmp_path / "rules.yaml"]
    words += ["--workers", 0, "--no-report"]
    first = medseg(*words, "--workdir", tmp_path / "one")
    assert first.exit_code == 0, first.output
    assert "1 of 1 cases done" in first.stdout
    assert list((tmp_path / "one").iterdir()) == []
    again = medseg(*words, "--workdir", tmp_path / "two")
    assert "1 of them by an earlier run" in again.stdout
    chosen = list(csv.DictReader((output / "selection.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["choice"], row["rank"]) for row in chosen] == [("chosen", "1"), ("not chosen", "2")]
    written = [path for path in output.rglob("*.[jc]s*") if path.name != "sources.csv"]
    assert [path.name for path in written if b"CANARY" in path.read_bytes()] == []
    medseg(*words[:6], "--workers", 0, "--no-report")  # without rules, nothing is chosen
    assert not (output / "selection.csv").exists()
