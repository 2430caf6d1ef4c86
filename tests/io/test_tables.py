"""Tables open in a spreadsheet as what they say, and run nothing."""

import csv
import stat

import pytest

from medseg.errors import OutputError
from medseg.io.tables import write_csv


def test_formulas_are_neutralised_and_numbers_kept(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, ["case", "ml"], [["=cmd()", -1.5], ["@x", 2], ["plain, with comma", None], ["+1", "-1"]])
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    assert rows == [["case", "ml"], ["'=cmd()", "-1.5"], ["'@x", "2"], ["plain, with comma", ""], ["'+1", "'-1"]]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_mode(tmp_path, mode):
    path = tmp_path / "table.csv"
    write_csv(path, ["a"], [], mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_unwritable_place_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't write"):
        write_csv(tmp_path / "file" / "table.csv", ["a"], [])
