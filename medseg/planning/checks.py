"""Whether the examined cases can teach and test what the label map promises.

Errors are what would waste a training: a structure that no training mask shows can't be learnt.
Warnings are what a person should look at, but what hospitals' data do hold: an empty mask may be a
healthy patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.errors import DatasetError
from medseg.labels import MOST_LABELS, LabelMap
from medseg.planning.choices import looks_like_ct
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint
from medseg.text import shown


@dataclass(frozen=True, slots=True)
class Finding:
    """Something noticed in the training data.

    Attributes
    ----------
    severity : "error" if training makes no sense with it, else "warning".
    message : one sentence with what to do.
    """

    severity: Literal["error", "warning"]
    message: str


def check_training_data(
    fingerprint: Fingerprint, labels: LabelMap, train: Sequence[str], validation: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """Return what is wrong or odd about the training and validation cases, errors first.

    Parameters
    ----------
    fingerprint : holds an entry for each of these cases.
    labels : what is to be learnt.
    train, validation : ids of the labelled cases to learn from and to measure on.
    """
    learnt = fingerprint.select(train).cases
    measured = fingerprint.select(validation).cases if validation else ()
    return (
        *_too_many(labels),
        *_absent_targets(labels, learnt, measured),
        *_empty_masks(learnt, measured),
        *_constant_images((*learnt, *measured)),
    )


def check_unstated(fingerprint: Fingerprint, channels: Sequence[str], modalities: Sequence[str]) -> tuple[Finding, ...]:
    """Return a warning for each channel that looks like CT though nothing says so: it would be normalised like MR.

    Parameters
    ----------
    channels, modalities : name and kind ("ct", "mr" or "other") of each input channel.
    """
    return tuple(
        Finding(
            "warning",
            f"{channel} states no modality and looks like CT, with air near {fingerprint.darkest(number):.0f}, but is "
            "normalised like MR: give --set dataset.modality=ct if it is CT, or dataset.modality=other if not",
        )
        for number, (channel, modality) in enumerate(zip(channels, modalities, strict=True))
        if modality == "other" and looks_like_ct(fingerprint, number)
    )


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raise one `DatasetError` with every finding that is an error, if there is any."""
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        raise DatasetError("; ".join(errors))


def _too_many(labels: LabelMap) -> list[Finding]:
    """Report more labels than prepared cases can hold."""
    count = len(labels.labels)
    if count <= MOST_LABELS:
        return []
    message = f"the label map has {count} labels, and a training mask holds {MOST_LABELS} at most"
    return [Finding("error", f"{message}: leave out or unite some")]


def _absent_targets(
    labels: LabelMap, learnt: Sequence[CaseFingerprint], measured: Sequence[CaseFingerprint]
) -> list[Finding]:
    """Report the structures that can't be learnt, those that validation could still show apart."""
    names = {label.value: label.name for label in labels.labels}
    nowhere: list[str] = []
    held_out: list[str] = []
    for number, target in enumerate(labels.targets):
        members = {names[value] for value in labels.members(number)}
        if any(members & set(case.volumes_ml) for case in learnt):
            continue
        is_measured = any(members & set(case.volumes_ml) for case in measured)
        value = " or ".join(map(str, labels.members(number)))
        (held_out if is_measured else nowhere).append(f"{target} (value {value})")
    findings = []
    if nowhere:
        message = f"no mask shows {shown(nowhere)}: add a case that does, or take it out of the label map"
        findings.append(Finding("error", message))
    if held_out:
        message = f"only validation masks show {shown(held_out)}: move a case that does to the training cases"
        findings.append(Finding("error", message))
    return findings


def _empty_masks(learnt: Sequence[CaseFingerprint], measured: Sequence[CaseFingerprint]) -> list[Finding]:
    return [
        Finding("warning", f"the mask of {role} case {case.id} shows no structure: check that this is meant")
        for role, cases in (("training", learnt), ("validation", measured))
        for case in cases
        if not case.volumes_ml
    ]


def _constant_images(cases: Sequence[CaseFingerprint]) -> list[Finding]:
    return [
        Finding("warning", f"channel {number} of {case.id} has one value everywhere: check the scan")
        for case in cases
        for number in case.constant_channels
    ]
