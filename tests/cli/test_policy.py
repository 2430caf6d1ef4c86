"""A policy given on the command line decides what is accepted, how it is read, and what its record says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.volume import Volume


@pytest.fixture
def gap(tmp_path) -> Path:
    """A series whose fourth of eight slices is missing."""
    values = np.random.default_rng(0).normal(0, 400, (1, 16, 14, 8)).astype(np.float32)
    grid = Grid((16, 14, 8), np.diag([-2.0, -2.0, 2.5, 1.0]))
    source = write_series(Volume(np.clip(values, -1000, 1000), grid), tmp_path / "scans" / "series")
    source.files[3].unlink()
    return tmp_path / "scans"


def test_index_and_convert_repair_a_gap(medseg, gap, tmp_path):
    assert medseg("index", gap).exit_code == 3
    table = tmp_path / "catalog.csv"
    shown = medseg("index", gap, "--policy", "MISSING_SLICE=repair", "--output", table)
    assert shown.exit_code == 0
    assert "MISSING_SLICE" in shown.stdout
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["status"], row["size_z"]) == ("accepted", "8")
    assert row["repairs"] == "MISSING_SLICE: interpolated 1 missing slice(s) between 7"

    output = tmp_path / "volumes"
    convert = ("convert", gap, "--output", output)
    assert medseg(*convert, "--policy", "missing_slice=repair").exit_code == 0
    (volume,) = output.glob("*.nii.gz")
    assert nib.load(volume).shape == (16, 14, 8)
    record = json.loads(next(output.glob("case-*.json")).read_text())
    assert record["repairs"] == {"MISSING_SLICE": "interpolated 1 missing slice(s) between 7"}
    assert "MISSING_SLICE" in record["flags"]
    assert record["ingest"]["missing_slice"] == "repair"
    again = medseg(*convert, "--policy", "MISSING_SLICE=repair")
    assert "by an earlier run" in again.stdout
    other = medseg(*convert, "--policy", "MISSING_SLICE=repair", "--policy", "EMPTY=reject")
    assert "by an earlier run" not in other.stdout
    assert medseg(*convert).exit_code == 3


def test_segment_repairs_a_gap(medseg, model, gap, tmp_path):
    command = ("segment", gap, "--model", model, "--output", tmp_path / "out", "--workers", "0", "--no-pictures")
    assert medseg(*command, "--no-report").exit_code == 3
    assert medseg(*command, "--no-report", "--policy", "MISSING_SLICE=repair").exit_code == 0
    (record,) = (tmp_path / "out" / "cases").glob("*/case.json")
    found = json.loads(record.read_text())
    assert found["repairs"] == {"MISSING_SLICE": "interpolated 1 missing slice(s) between 7"}
    assert "MISSING_SLICE" in found["flags"]
    assert nib.load(record.with_name("mask.nii.gz")).shape == (16, 14, 8)


@pytest.mark.parametrize("verb", ["index", "convert"])
def test_a_policy_without_sense_is_one_sentence(medseg, gap, tmp_path, verb):
    words = [] if verb == "index" else ["--output", tmp_path / "out"]
    result = medseg(verb, gap, *words, "--policy", "DUPLICATE=repair")
    assert result.exit_code == 2
    assert "DUPLICATE=repair: Input should be 'reject' or 'warn'" in result.stderr
