"""Every flag fires on a case made for it, and stays silent on a good one."""

import pytest

from medseg.labels import LabelMap
from medseg.measures.intensity import Intensity
from medseg.quality.checks import (
    INGEST_MEANINGS,
    MEANINGS,
    Flag,
    check_case,
    limits,
    side_pairs,
    volume_limits,
)
from medseg.reference import Range

from .results import LABELS, VOLUMES, doubt, features, record, reference, structure


def flags(found=None, known=reference(), **changes):  # noqa: B008  # a frozen value
    return [(f.flag, f.structure) for f in check_case(record("a", found, **changes), LABELS, known)]


def with_doubt(target, answer):
    good = features()
    return good.model_copy(update={"uncertainty": {**good.uncertainty, target: answer}})


def test_a_good_case_has_no_flags():
    assert flags() == []
    assert flags(features(tumour=None)) == []


@pytest.mark.parametrize(
    ("flag", "structure_name", "found"),
    [
        (Flag.VOLUME_LOW, "liver", features(liver=structure("liver", volume_ml=500))),
        (Flag.VOLUME_HIGH, "liver", features(liver=structure("liver", volume_ml=4000))),
        (Flag.MISSING, "liver", features(liver=None)),
        (Flag.FRAGMENTS, "liver", features(liver=structure("liver", components=2, largest_share=0.8))),
        (Flag.TOUCHES_BORDER, "liver", features(liver=structure("liver", borders="S"))),
        (Flag.OUTSIDE_ORGAN, "tumour", features(tumour=structure("tumour", outside_share=0.4))),
        (Flag.INTENSITY, "liver", features(liver=structure("liver", intensity=(Intensity(mean=10, sd=20),)))),
        (Flag.INTENSITY, "liver", features(liver=structure("liver", intensity=(Intensity(mean=100, sd=90),)))),
        (Flag.UNCERTAIN, "liver", with_doubt("liver", doubt(0.6))),
        (Flag.DISAGREEMENT, "liver", with_doubt("liver", doubt(agreement=0.5))),
        (
            Flag.SUSPECTED,
            "tumour",
            features(tumour=None).model_copy(update={"uncertainty": {"tumour": doubt(None, soft_ml=30)}}),
        ),
    ],
)
def test_each_flag_of_a_structure_fires_alone(flag, structure_name, found):
    assert flags(found) == [(flag, structure_name)]


def test_swapped_sides_are_found_without_any_training_data():
    swapped = features(
        kidney_left=structure("kidney_left", centroid_mm=(60, 0, 0)),
        kidney_right=structure("kidney_right", centroid_mm=(-60, 0, 0)),
    )
    assert flags(swapped) == [(Flag.LEFT_RIGHT_SWAP, "kidney_left")]
    assert flags(swapped, None) == [(Flag.LEFT_RIGHT_SWAP, "kidney_left")]


def test_an_empty_mask_is_one_flag_not_four():
    assert flags(features(**dict.fromkeys(VOLUMES))) == [(Flag.EMPTY, "")]


@pytest.mark.parametrize(("share", "words"), [(1.0, "though every training case"), (0.96, "though nearly every")])
def test_what_is_missing_is_said_to_be_in_every_training_case_only_where_it_is(share, words):
    known = reference()
    liver = known.structures["liver"].model_copy(update={"share": share})
    usual = known.model_copy(update={"structures": {**known.structures, "liver": liver}})
    for found in (features(liver=None), features(**dict.fromkeys(VOLUMES))):
        (finding,) = check_case(record("a", found), LABELS, usual)
        assert words in finding.sentence


def test_what_reading_noticed_is_said_in_words():
    (finding,) = check_case(record("a", flags=("GANTRY_TILT",)), LABELS, reference())
    assert finding.flag is Flag.INGEST
    assert "tilted" in finding.sentence
    assert "GANTRY_TILT" in finding.sentence


def test_an_inverted_display_is_not_said_to_have_changed_the_values():
    (finding,) = check_case(record("a", flags=("MONOCHROME1",)), LABELS, reference())
    assert "was inverted" not in finding.sentence
    assert "values are kept" in finding.sentence


def test_voxels_of_another_size_are_noticed_along_the_patients_axes():
    geometry = record("a").geometry.model_copy(update={"spacing": (2.5, 0.8, 0.8), "axcodes": "SPL"})
    assert flags(geometry=geometry) == []
    thick = geometry.model_copy(update={"spacing": (9.0, 0.8, 0.8)})
    assert flags(geometry=thick) == [(Flag.RESOLUTION, "")]


def test_touching_is_no_news_where_training_masks_touch_as_well():
    known = reference()
    liver = known.structures["liver"].model_copy(update={"touching": 0.8})
    usual = known.model_copy(update={"structures": {**known.structures, "liver": liver}})
    assert flags(features(liver=structure("liver", borders="S")), usual) == []


def test_relative_intensities_don_t_depend_on_the_scans_scale():
    known = reference()
    scaled = {name: s.model_copy(update={"mean": (), "sd": ()}) for name, s in known.structures.items()}
    one = Range(cases=20, low=0.9, p5=0.9, median=1, p95=1.1, high=1.1)
    half = Range(cases=20, low=0.4, p5=0.4, median=0.5, p95=0.6, high=0.6)
    scaled["liver"] = scaled["liver"].model_copy(update={"mean": (one,), "sd": (half,)})
    relative = known.model_copy(update={"relative": (True,), "structures": scaled})
    for unit in (1.0, 1000.0):
        inside = Intensity(mean=30 * unit, sd=5 * unit)
        scan = (Intensity(mean=20 * unit, sd=10 * unit),)
        good = features(liver=structure("liver", intensity=(inside,))).model_copy(update={"channels": scan})
        assert flags(good, relative) == []
        bad = good.model_copy(update={"channels": (Intensity(mean=0.0, sd=10 * unit),)})
        assert flags(bad, relative) == [(Flag.INTENSITY, "liver")]


def test_few_training_cases_know_no_range():
    few = Range(cases=4, low=1, p5=1, median=1, p95=1, high=1)
    assert limits(few) is None
    assert volume_limits(few) is None
    assert limits(few.model_copy(update={"cases": 5})) == (1, 1)


def test_a_volume_twice_too_large_is_as_unusual_as_one_half_as_large():
    low, high = volume_limits(Range(cases=9, low=10, p5=10, median=20, p95=40, high=40))
    assert low * high == pytest.approx(400)
    assert low < 10 < 40 < high


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["kidney_left", "kidney_right"], [("kidney_left", "kidney_right")]),
        (["Right kidney", "left KIDNEY"], [("left KIDNEY", "Right kidney")]),
        (["lung_L", "lung_R", "heart"], [("lung_L", "lung_R")]),
        (["LeftKidney", "RightKidney"], [("LeftKidney", "RightKidney")]),
        (["kidneyLeft", "kidneyRight"], [("kidneyLeft", "kidneyRight")]),
        (["M1L", "M1R"], [("M1L", "M1R")]),
        (["lh_cortex", "rh_cortex"], [("lh_cortex", "rh_cortex")]),
        (["Lt kidney", "Rt kidney"], [("Lt kidney", "Rt kidney")]),
        (["kidney_left", "lung_right"], []),
        (["vertebra_L5", "vertebra_R5"], []),
        (["Läsion", "Rückenmark", "ventricle"], []),
        (["liver", "spleen"], []),
    ],
)
def test_pairs_of_sides_are_found_by_name(names, pairs):
    labels = LabelMap.parse({name: i for i, name in enumerate(names, start=1)})
    assert side_pairs(labels) == pairs
    assert labels.is_sided == (bool(pairs) or names[0] == "kidney_left")


def test_a_record_without_features_is_not_judged():
    assert flags(None, features=None) == []


def test_every_flag_has_a_meaning_and_so_has_every_code_it_explains():
    assert set(MEANINGS) == set(Flag)
    assert all(INGEST_MEANINGS.values())
