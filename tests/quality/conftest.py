"""A browser for the pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .browser import CHROMIUM, Browser


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (apt-get install chromium): the page was not opened")
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()
