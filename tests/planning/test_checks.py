"""What makes training senseless is an error; what a person should look at is a warning."""

from __future__ import annotations

import pytest

from medseg.errors import DatasetError
from medseg.labels import LabelMap
from medseg.planning.checks import check_training_data, refuse_errors
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint

LABELS = LabelMap.parse({"liver": 1, "tumour": 2})


def cases(**volumes: dict[str, float]) -> Fingerprint:
    return Fingerprint(
        cases=tuple(
            CaseFingerprint(
                id=id_, shape=(9, 9, 9), content_shape=(9, 9, 9), spacing=(1, 1, 1), channels=1, volumes_ml=present
            )
            for id_, present in volumes.items()
        )
    )


BOTH = {"liver": 900.0, "tumour": 4.0}


def test_sound_data_give_no_finding() -> None:
    assert check_training_data(cases(a=BOTH, b={"liver": 1.0}, v=BOTH), LABELS, ["a", "b"], ["v"]) == ()


def test_structure_in_no_mask() -> None:
    findings = check_training_data(cases(a={"liver": 1.0}, v={"liver": 1.0}), LABELS, ["a"], ["v"])
    assert [finding.severity for finding in findings] == ["error"]
    with pytest.raises(DatasetError, match=r"no mask shows tumour \(value 2\): add a case that does, or take it out"):
        refuse_errors(findings)


def test_structure_in_validation_only() -> None:
    findings = check_training_data(cases(a={"liver": 1.0}, v=BOTH), LABELS, ["a"], ["v"])
    with pytest.raises(DatasetError, match=r"only validation masks show tumour \(value 2\): move a case"):
        refuse_errors(findings)


def test_every_error_is_in_the_message() -> None:
    with pytest.raises(DatasetError, match=r"no mask shows liver .*; only validation masks show tumour"):
        refuse_errors(check_training_data(cases(a={}, v={"tumour": 1.0}), LABELS, ["a"], ["v"]))


def test_more_labels_than_a_training_mask_holds_are_said_before_anything_is_prepared() -> None:
    for count, wrong in ((254, False), (255, True)):
        many = LabelMap.parse({f"l{value}": value for value in range(1, count + 1)})
        findings = check_training_data(cases(a={label.name: 1.0 for label in many.labels}), many, ["a"])
        assert [finding.severity for finding in findings] == ["error"] * wrong
    with pytest.raises(DatasetError, match="the label map has 255 labels, and a training mask holds 254 at most"):
        refuse_errors(findings)


def test_a_long_list_is_cut() -> None:
    many = LabelMap.parse({f"l{value}": value for value in range(1, 10)})
    (finding,) = check_training_data(cases(a={"l1": 1.0}), many, ["a"])
    assert finding.message.startswith(
        "no mask shows l2 (value 2), l3 (value 3), l4 (value 4), l5 (value 5), l6 (value 6) and 3 more:"
    )


def test_a_region_needs_one_of_its_labels() -> None:
    regions = LabelMap.parse({"whole": [1, 2], "core": 2})
    names = {label.value: label.name for label in regions.labels}
    edge_only = check_training_data(cases(a={names[1]: 1.0}), regions, ["a"])
    assert [finding.message.split(":")[0] for finding in edge_only] == ["no mask shows core (value 2)"]
    assert check_training_data(cases(a={names[2]: 1.0}), regions, ["a"]) == ()


def test_empty_masks_and_constant_images_are_warnings() -> None:
    fingerprint = cases(a=BOTH, b={}, v={})
    constant = fingerprint.cases[0].model_copy(update={"constant_channels": (1,)})
    fingerprint = Fingerprint(cases=(constant, *fingerprint.cases[1:]))
    findings = check_training_data(fingerprint, LABELS, ["a", "b"], ["v"])
    assert {finding.severity for finding in findings} == {"warning"}
    assert [finding.message.split(":")[0] for finding in findings] == [
        "the mask of training case b shows no structure",
        "the mask of validation case v shows no structure",
        "channel 1 of a has one value everywhere",
    ]
    refuse_errors(findings)
