"""One series of each study, chosen by rules; every other one says why not, and none is chosen by a guess."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.catalog.index import index_scans
from medseg.catalog.series_rules import SeriesRules, matches, orientation_of, read_series_rules
from medseg.errors import ConfigError, ReasonCode
from medseg.geometry import Grid

from .studies import AXIAL, CORONAL, SAGITTAL, tilted, write_study

EXAMPLES = Path(__file__).parents[2] / "configs" / "series_rules"


@pytest.fixture
def choose(tmp_path):
    """Return a function that indexes with rules and gives {folder: (status, rank, message)}."""

    def run(*rules, margin=0.1, root=tmp_path / "scans"):
        catalog = index_scans(
            root, key=tmp_path / "key", rules=SeriesRules.model_validate({"rules": rules or ({},), "margin": margin})
        )
        return {str(entry.path): (entry.status, entry.rank, entry.message) for entry in catalog.entries}

    return run


@pytest.fixture
def series(tmp_path):
    """Return a function that writes a series of the study."""
    return lambda name, study="1.2.3", **tags: write_study(tmp_path / "scans", name, study, **tags)


def test_thin_axial_original_comes_first_and_each_other_says_why(series, choose):
    series("thin", spacing=1.0, slices=20)
    series("thick", spacing=5.0, slices=30)
    series("short", spacing=1.0, slices=10)
    series("sagittal", directions=SAGITTAL, spacing=0.5)
    series("reformat", ImageType=["DERIVED", "SECONDARY", "AXIAL"], spacing=0.3)
    series("scout", Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert choose({"modality": ["CT"]}) == {
        "thin": ("accepted", 1, "meets rule 1: 20 slices, 1 mm apart, axial"),
        "short": ("skipped", 2, "it has 10 slices, another 20"),
        "thick": ("skipped", 3, "its slices are 5 mm apart, another's 1"),
        "sagittal": ("skipped", 4, "it is sagittal, another is axial"),
        "reformat": ("skipped", 5, "it is derived, another is original"),
        "scout": ("skipped", 6, "it is MR"),
    }


@pytest.mark.parametrize(
    ("rule", "objection"),
    [
        ({"orientation": ["coronal", "sagittal"]}, "it is axial"),
        ({"spacing_mm": {"max": 1.5}}, "its slices are 2 mm apart, not at most 1.5"),
        ({"thickness_mm": {"min": 3, "max": 5}}, "its slices are 2.5 mm thick, not 3 to 5"),
        ({"min_slices": 13}, "it has 12 slices, fewer than 13"),
        ({"original": False}, "it is original"),
        ({"contrast": True}, "it is without contrast"),
        ({"kernel": "^B[67]"}, "its kernel does not fit"),
        ({"not_kernel": "^b3"}, "its kernel is ruled out"),
        ({"description": "arterial"}, "its description does not fit"),
        ({"not_description": "canary"}, "its description is ruled out"),
    ],
)
def test_each_condition_objects_in_words_and_lets_others_pass(series, choose, rule, objection):
    series("CANARY", SliceThickness=2.5, ConvolutionKernel="B30f", SeriesDescription="CANARY portal")
    assert choose(rule) == {"CANARY": ("skipped", 1, objection)}
    opposite = {
        "orientation": ["axial"],
        "spacing_mm": {"min": 2, "max": 2},
        "thickness_mm": {"max": 2.5},
        "min_slices": 12,
        "original": True,
        "contrast": False,
        "kernel": "b30",
        "not_kernel": "^B[67]",
        "description": "PORTAL|venous",
        "not_description": "lung",
    }
    assert choose({**opposite})["CANARY"][0] == "accepted"


def test_contrast_thickness_and_umlauts_are_read_from_the_header(series, choose):
    series("plain", SliceThickness=None)
    tags = {"SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": "Schädel", "ContrastBolusAgent": "X"}
    series("skull", **tags)
    assert choose({"description": "schädel", "contrast": True})["skull"][0] == "accepted"
    assert choose({"thickness_mm": {"max": 9}})["plain"][2] == "its slices are any mm thick, not at most 9"


def test_earlier_rules_are_preferred(series, choose):
    series("thick", spacing=5.0, SeriesDescription="portal venous")
    series("thin", spacing=1.0, SeriesDescription="plain")
    found = choose({"description": "portal"}, {})
    assert found["thick"] == ("accepted", 1, "meets rule 1: 12 slices, 5 mm apart, axial")
    assert found["thin"] == ("skipped", 2, "another meets rule 1")
    assert choose({"description": "arterial"}, {})["thin"][2].startswith("meets rule 2")


def test_the_order_of_wanted_orientations_is_a_preference(series, choose):
    series("a", directions=AXIAL)
    series("c", directions=CORONAL)
    series("s", directions=SAGITTAL)
    found = choose({"orientation": ["sagittal", "axial"]})
    assert {name: status for name, (status, _, _) in found.items()} == {"a": "skipped", "c": "skipped", "s": "accepted"}
    assert (found["a"][2], found["c"][2]) == ("it is axial, another is sagittal", "it is coronal")


def test_what_would_do_equally_well_is_refused_with_the_list(series, choose, tmp_path):
    series("one", spacing=2.0, slices=20, SeriesDescription="CANARY")
    series("two", spacing=2.1, slices=19, SeriesDescription="CANARY")
    series("far", spacing=4.0)
    found = choose()
    listed = {"20 slices, 2 mm apart, axial", "19 slices, 2.1 mm apart, axial"}
    assert {found[name][:2] for name in ("one", "two")} == {("refused", 1)}
    assert found["far"] == ("skipped", 3, "its slices are 4 mm apart, another's 2")
    for name in ("one", "two"):
        assert all(line in found[name][2] for line in listed)
        assert "2 series of its study would do" in found[name][2]
    assert {found[name][2].partition("this is number ")[2][0] for name in ("one", "two")} == {"1", "2"}
    catalog = index_scans(tmp_path / "scans", key=tmp_path / "key", rules=SeriesRules.model_validate({"rules": [{}]}))
    assert {entry.reason for entry in catalog.with_status("refused")} == {ReasonCode.AMBIGUOUS_SERIES}
    assert catalog.cases() == ()
    assert "CANARY" not in repr([(e.message, e.case_id) for e in catalog.entries])
    assert choose(margin=0.01)["one"][0] == "accepted"


def test_studies_are_chosen_from_apart_and_other_scans_stay(series, choose, tmp_path):
    from medseg.io.nifti import write_volume
    from medseg.volume import Volume

    series("a", study="1.2.1", spacing=1.0)
    series("b", study="1.2.1", spacing=3.0)
    series("c", study="1.2.2", spacing=3.0)
    series("gap", study="1.2.2", spacing=0.5)
    next((tmp_path / "scans" / "gap").glob("0003*")).unlink()
    write_volume(
        tmp_path / "scans" / "brain.nii", Volume(np.ones((1, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
    )
    found = choose()
    assert {name: (status, rank) for name, (status, rank, _) in found.items()} == {
        "a": ("accepted", 1), "b": ("skipped", 2), "c": ("accepted", 1), "gap": ("refused", 0),
        "brain.nii": ("accepted", 0),
    }  # fmt: skip


def test_without_rules_every_sound_series_is_a_scan(series, tmp_path):
    series("a")
    series("b")
    entries = index_scans(tmp_path / "scans", key=tmp_path / "key").entries
    assert [(entry.status, entry.rank, entry.message) for entry in entries] == [("accepted", 0, "")] * 2
    assert len({entry.study for entry in entries}) == 1
    assert entries[0].study.startswith("study-")


def test_the_choice_does_not_depend_on_where_series_lie(series, choose, tmp_path):
    for name, spacing in (("a", 1.0), ("b", 1.05), ("c", 1.09), ("d", 1.2)):
        series(name, spacing=spacing, slices=20 if name == "c" else 10)
    first = choose()
    for name, other in (("a", "z"), ("c", "0")):
        (tmp_path / "scans" / name).rename(tmp_path / "scans" / other)
    again = choose()
    assert {first["c"], first["a"]} == {again["0"], again["z"]}
    assert again["0"][0] == "accepted"


@given(st.floats(0, 89.9), st.sampled_from([(AXIAL, "axial"), (SAGITTAL, "sagittal"), (CORONAL, "coronal")]))
def test_orientation_is_oblique_beyond_25_degrees(angle, plane):
    directions, name = plane
    turn = tilted(angle) @ np.linalg.inv(AXIAL)  # about the left-right axis
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions * [1, 1, 3]
    found = orientation_of(Grid((4, 4, 4), affine))
    if name == "sagittal" or angle < 24.9:
        assert found == name
    elif 25.1 < angle < 64.9:
        assert found == "oblique"
    elif angle > 65.1:
        assert found == {"axial": "coronal", "coronal": "axial"}[name]


def test_hostile_descriptions_cost_no_time():
    began = time.perf_counter()
    for pattern in ("^(a+)+$", "(a|a)*b", "(.*)*x", "(a?){30}a{30}c"):
        assert not matches(pattern, "a" * 63 + "!")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rules: []", "rules"),
        ("margin: 0.1", "rules"),
        ("rules: [{modality: [XX]}]", "modality"),
        ("rules: [{kernal: x}]", "kernal"),
        ("rules: [{description: '(unclosed'}]", "not a pattern"),
        ("rules: [{description: '(?=look)'}]", "not a pattern"),
        (f"rules: [{{description: '{'x' * 201}'}}]", "at most 200"),
        ("rules: [{spacing_mm: {min: 3, max: 2}}]", "min 3 is above max 2"),
        ("rules: [{min_slices: 0}]", "min_slices"),
        ("rules: [{}]\nmargin: 1", "margin"),
        ("- rules", "pairs"),
        ("rules: [", "not readable"),
    ],
)
def test_wrong_rules_are_named(tmp_path, text, complaint):
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_series_rules(tmp_path / "rules.yaml")
    assert "rules.yaml" in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        read_series_rules(tmp_path / "missing.yaml")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_sound(path):
    assert read_series_rules(path).rules


def test_the_example_for_t1_prefers_contrast_agent_whatever_the_thickness(series, tmp_path):
    thick = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "SliceThickness": 5}
    series("plain", SeriesDescription="T1 ax", **thick)
    series("contrast", SeriesDescription="T1 post", ContrastBolusAgent="Gd", **thick)
    catalog = index_scans(tmp_path / "scans", key=tmp_path / "key", rules=read_series_rules(EXAMPLES / "mr_t1.yaml"))
    assert [str(entry.path) for entry in catalog.with_status("accepted")] == ["contrast"]


def test_there_are_examples():
    assert len(list(EXAMPLES.glob("*.yaml"))) >= 2
