"""``medseg demo`` goes the whole way; here with three steps of training on the committed sample scans."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

SAMPLE = Path(__file__).parents[2] / "sample_data" / "abdomen"


@pytest.fixture
def short_training(tmp_path, monkeypatch):
    """The demo's own configuration, but short."""
    from medseg.cli import demo

    config = yaml.safe_load(demo.CONFIG.read_text(encoding="utf-8"))
    config["training"]["steps"] = 3
    config["network"]["features"] = 4
    short = tmp_path / "short.yaml"
    short.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(demo, "CONFIG", short)


def test_the_demo_makes_everything_and_says_where(medseg, tmp_path, short_training):
    output = tmp_path / "demo"
    shutil.copytree(SAMPLE, output / "data")
    result = medseg("demo", "--output", output)
    assert result.exit_code == 0, result.output
    run = json.loads((output / "results" / "run.json").read_text())
    ended = {status: count for status, count in run["cases"].items() if count}
    assert ended == {"done": 2, "rejected": 1}  # one NIfTI, one DICOM, one broken on purpose
    summary = json.loads((output / "results" / "evaluation" / "summary.json").read_text())
    assert summary["cases"] == 2
    assert summary["problems"] == []
    assert [target["target"] for target in summary["targets"]] == ["liver", "kidney", "spleen", "tumour"]
    assert len(list(output.glob("results/cases/*/overlay.png"))) == 2
    assert (output / "pseudonym.key").is_file()
    for words in ("2 scans; 1 broken one refused", "medseg train", "medseg segment"):
        assert words in result.stdout

    again = medseg("demo", "--output", output)
    assert again.exit_code == 0
    assert json.loads((output / "results" / "run.json").read_text())["done_before"] == 2


def test_the_demos_configuration_is_the_one_in_configs():
    from medseg.cli import demo

    assert (SAMPLE.parents[1] / "configs" / "demo.yaml").read_bytes() == demo.CONFIG.read_bytes()
