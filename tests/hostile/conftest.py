"""The hostile folders of ``sample_data/hostile``, written once."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "sample_data" / "hostile"))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """Return a function from a pitfall's name to its folder and the truth about it; each is written once."""
    from make_hostile import PITFALLS

    root, written = tmp_path_factory.mktemp("hostile"), {}

    def folder(name: str):
        if name not in written:
            (root / name).mkdir()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom warns of what it is told to write
                written[name] = (root / name, PITFALLS[name].write(root / name))
        return written[name]

    return folder
