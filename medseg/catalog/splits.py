"""Who trains and who tests: folds by patient, and the checks that no patient, scan or case is on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.catalog.sources import content_files, voxels_from
from medseg.errors import DatasetError
from medseg.io.streams import content_digest, is_blank
from medseg.text import shown
from medseg.volume import Case

START_BYTES = {"nifti": 1 << 20, "dicom": 1 << 15}
"""Of a file, by which those that may be equal are found: some slices of a CT, so more than air; the UID of a slice."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One division of the cases.

    Attributes
    ----------
    train, validation : cases to learn from and to measure on; no patient is in both.
    """

    train: tuple[Case, ...]
    validation: tuple[Case, ...]


def k_folds(cases: Sequence[Case], folds: int, seed: int) -> list[Fold]:
    """Divide cases into folds of about equal size, every patient whole in one of them.

    The division depends on the cases' ids and the seed alone, not on their order or where they lie.

    Raises
    ------
    DatasetError
        If there are fewer patients than folds, or fewer than two folds.
    """
    patients: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: case.id):
        patients[patient_of(case)].append(case)
    if folds < 2:
        raise DatasetError(f"cross-validation needs at least 2 folds, not {folds}")
    if len(patients) < folds:
        raise DatasetError(
            f"{len(patients)} patients can't be divided into {folds} folds; ask for at most {len(patients)} folds, or "
            "label more patients"
        )
    names = np.random.default_rng(seed).permutation(sorted(patients)).tolist()
    held: list[list[Case]] = [[] for _ in range(folds)]
    # Patients with many scans first, each to the smallest fold: the folds end up about equal.
    for name in sorted(names, key=lambda name: -len(patients[name])):
        min(held, key=len).extend(patients[name])
    return [_fold(cases, {case.id for case in part}) for part in held]


def check_leakage(train: Sequence[Case], held_out: Sequence[Case]) -> None:
    """Refuse held-out cases whose patient, or one of whose image files, is also trained on.

    Files are compared by content, whatever they are called and however they are compressed: those of DICOM whole, those
    of NIfTI by their voxels, because every program writes another header. Only files that begin alike are read whole.

    Raises
    ------
    DatasetError
        If there are any, the first pairs named by their case ids, or if a file can't be read.
    """
    trained = {patient_of(case): case.id for case in train}
    pairs = [f"{case.id} and {trained[patient_of(case)]}" for case in held_out if patient_of(case) in trained]
    if pairs:
        raise DatasetError(
            f"{len(pairs)} held-out cases are of patients who are also trained on: {shown(pairs)}; "
            "move all cases of a patient to one side"
        )
    copies = _equal_files(train, held_out)
    if copies:
        raise DatasetError(
            f"{len(copies)} held-out cases hold the same image as a training case: {shown(copies)}; remove the copies"
        )


def check_unlabelled(unlabelled: Sequence[Case], labelled: Sequence[Case], held_out: Sequence[Case]) -> None:
    """Refuse unlabelled cases that are copies of labelled ones, or that a held-out case's patient or image is among.

    Raises
    ------
    DatasetError
        If there are any: a copy would count twice, and a held-out image seen in training measures nothing.
    """
    check_leakage(unlabelled, held_out)
    copies = _equal_files(labelled, unlabelled)
    if copies:
        raise DatasetError(
            f"{len(copies)} unlabelled cases hold the same image as a labelled one: {shown(copies)}; remove the copies"
        )


def check_unseen(
    held_out: Sequence[Case], learnt: Collection[str], cases: Iterable[Case], subject: str, *, kind: str = "validation"
) -> None:
    """Refuse held-out cases that a model has learnt from, or other scans of whose patients: their scores would flatter.

    Parameters
    ----------
    learnt, cases : as of `known_of`.
    subject : begins the message: who has learnt from them, and "has".
    kind : of the held-out cases, for the message.

    Raises
    ------
    DatasetError
        If there are any.
    """
    seen = known_of(held_out, learnt, cases)
    if seen:
        raise DatasetError(
            f"{subject} learnt from {len(seen)} of the {len(held_out)} {kind} cases: {shown(seen)}, or from other "
            "scans of their patients; hold out cases of patients that were never learnt from"
        )


def known_of(held_out: Sequence[Case], learnt: Collection[str], cases: Iterable[Case]) -> list[str]:
    """Return the ids of the held-out cases whose patients a model knows.

    Parameters
    ----------
    learnt : ids of the cases that it has learnt from.
    cases : of the dataset, by which their patients are known.
    """
    patients = {patient_of(case) for case in cases if case.id in learnt}
    return [case.id for case in held_out if case.id in learnt or patient_of(case) in patients]


def without_patients(cases: Iterable[Case], others: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases whose patient is in none of the others."""
    patients = {patient_of(case) for case in others}
    return tuple(case for case in cases if patient_of(case) not in patients)


def patient_of(case: Case) -> str:
    """Return who was scanned; a case without that knowledge is a patient of its own."""
    return case.patient or case.id


def _fold(cases: Sequence[Case], held: set[str]) -> Fold:
    return Fold(
        train=tuple(case for case in cases if case.id not in held),
        validation=tuple(case for case in cases if case.id in held),
    )


def _equal_files(train: Sequence[Case], held_out: Sequence[Case]) -> list[str]:
    """Return 'held-out and training case' for every held-out case that shares an image's content."""
    try:
        known, tested = _by_start(train), _by_start(held_out)
        found: dict[str, str] = {}
        for start in known.keys() & tested.keys():
            owners = {content_digest(path, skip): case for case, path, skip in known[start]}
            for case, path, skip in tested[start]:
                twin = owners.get(content_digest(path, skip))
                if twin and not is_blank(path, skip):  # a channel without anything is no copy of another one
                    found.setdefault(case, f"{case} and {twin}")
    except OSError as error:
        name = Path(error.filename).name if error.filename else "an image"
        raise DatasetError(f"{name} can't be read ({error.strerror}); restore it or leave its case out") from None
    return [found[case] for case in sorted(found)]


def _by_start(cases: Iterable[Case]) -> dict[bytes, list[tuple[str, Path, int]]]:
    """Return case, file and where its voxels begin of every image, by the digest of its first voxels."""
    starts: dict[bytes, list[tuple[str, Path, int]]] = defaultdict(list)
    for case in cases:
        for source in case.images:
            for path in content_files(source):
                skip = voxels_from(path) if source.kind == "nifti" else 0
                starts[content_digest(path, skip, START_BYTES[source.kind])].append((case.id, path, skip))
    return starts
