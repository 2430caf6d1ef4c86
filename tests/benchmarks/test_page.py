"""The pages of what medseg costs, and of what unlabelled scans bring, say what was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    def page_of(study):
        path = ROOT / "benchmarks" / study / "page.py"
        monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])  # as when it is run
        spec = importlib.util.spec_from_file_location(f"{study}_page", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return page_of


@pytest.fixture
def page(load):
    return load("performance")


@pytest.mark.parametrize("study", ["performance", "semi_supervised"])
def test_the_page_is_up_to_date(load, study):
    page = load(study)
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), f"run python benchmarks/{study}/page.py"


def test_medians_ranges_and_ratios_are_in_the_table(page):
    def runs(*seconds):
        return [{"seconds": s, "cpu_seconds": 2 * s, "peak_mb": 100 * s} for s in seconds]

    rows = page.table({"medseg segment, 1": runs(1.0, 4.0, 2.0), "nnUNetv2_predict, 1": runs(12.0)}).splitlines()
    assert rows[2] == "| medseg segment | **2.00** (1.00 to 4.00) | 1.00 | 4.0 | 200 | 1.00 | 3 |"
    assert rows[3] == "| nnUNetv2_predict | **12.0** (12.0 to 12.0) | 6.00 | 24.0 | 1200 | 6.00 | 1 |"


def test_plots_can_be_drawn_anywhere(page, tmp_path):
    page.draw_peers(tmp_path / "peers.png")
    page.draw_growth(tmp_path / "growth.png")
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 10_000
