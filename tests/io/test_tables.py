"""Tables open in a spreadsheet as what they say, and run nothing."""

import csv
import os
import stat

import pytest

from medseg.errors import OutputError
from medseg.io.tables import OWNER_ONLY, merge_csv, write_csv


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


def test_without_a_mode_the_users_own_settings_hold(tmp_path):
    before = os.umask(0o077)
    try:
        write_csv(tmp_path / "table.csv", ["a"], [])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "table.csv").stat().st_mode) == 0o600


def test_unwritable_place_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't write"):
        write_csv(tmp_path / "file" / "table.csv", ["a"], [])


def test_merged_tables_are_in_order_and_their_cells_as_they_were(tmp_path):
    rows = [["=a", "x,y", -1.5], ["=a", 'say "b"', 2], ["b", "-c", None], ["d", "two\nlines", 0]]
    write_csv(tmp_path / "whole.csv", ["case", "text", "number"], rows)
    write_csv(tmp_path / "1.csv", ["case", "text", "number"], rows[2:3])
    write_csv(tmp_path / "2.csv", ["case", "text", "number"], [*rows[:2], rows[3]])
    write_csv(tmp_path / "3.csv", ["case", "text", "number"], [])
    parts = [tmp_path / f"{number}.csv" for number in (1, 2, 3)]
    merge_csv(parts, tmp_path / "merged.csv", mode=OWNER_ONLY)
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert stat.S_IMODE((tmp_path / "merged.csv").stat().st_mode) == OWNER_ONLY


def test_tables_that_do_not_fit_are_not_merged(tmp_path):
    write_csv(tmp_path / "a.csv", ["case", "liver_ml"], [["x", 1]])
    write_csv(tmp_path / "b.csv", ["case", "spleen_ml"], [["y", 2]])
    with pytest.raises(OutputError, match=r"b\.csv has other columns than .*a\.csv"):
        merge_csv([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "merged.csv")
    with pytest.raises(OutputError, match=r"c\.csv: can't be read"):
        merge_csv([tmp_path / "a.csv", tmp_path / "c.csv"], tmp_path / "merged.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "b.csv"}
