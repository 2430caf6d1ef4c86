"""The page of what medseg costs says what was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = ROOT / "benchmarks" / "performance" / "page.py"


@pytest.fixture(scope="module")
def page():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("performance_page", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_the_page_is_up_to_date(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), f"run python {PATH.relative_to(ROOT)}"


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
