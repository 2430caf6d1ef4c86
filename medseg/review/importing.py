"""Take reviewers' verdicts and corrected masks back: each is taken whole or refused, and costs the others nothing.

`import_submission` takes one; it is what the folder import calls for each, and what anything else that receives
masks from people is to call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.catalog.identity import load_key, pseudonym
from medseg.errors import ConfigError, LabelError, ScanError
from medseg.provenance import digest_files, digest_json, package_versions, timestamp
from medseg.quality.metrics import evaluate_case
from medseg.review.corrected import DICOM_ENDING, Terms, read_corrected
from medseg.review.folder import ReviewCase, ReviewFolder, open_review
from medseg.review.refusal import Refusal, ReviewError
from medseg.review.submissions import Refused, Submission, collect
from medseg.review.versions import Change, Status, Version, standing, store, versions_of
from medseg.text import printable
from medseg.volume import Mask

WITH_MASK = ("accepted", "corrected")


@dataclass(frozen=True, slots=True)
class ImportTerms:
    """On which terms an import takes what was handed in.

    Attributes
    ----------
    key : of the pseudonyms of reviewers and series.
    renamed : names of segments, and the names of the labels that they are, where a person says so.
    """

    key: bytes
    renamed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Taken:
    """A version, and whether an earlier import had taken it."""

    version: Version
    was_taken: bool = False


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What became of everything that was handed in.

    Attributes
    ----------
    taken : the versions, by case.
    refused : what was not taken, and why.
    conflicts : for each case on which reviewers disagree, their versions.
    """

    review: ReviewFolder
    taken: tuple[Taken, ...]
    refused: tuple[Refused, ...]
    conflicts: dict[str, tuple[Version, ...]]

    @property
    def exit_code(self) -> int:
        """0: all taken; 1: something refused or in conflict; 3: nothing taken."""
        if not self.taken:
            return 3
        return 1 if self.refused or self.conflicts else 0


def import_review(
    folder: Path,
    place: Path | None = None,
    *,
    key: Path | None = None,
    renamed: Mapping[str, str] | None = None,
) -> ImportSummary:
    """Take everything that reviewers of a folder handed in.

    Parameters
    ----------
    folder : the review folder.
    place : where they handed it in, if not in the folder itself: a copy of it, a folder of masks, or one mask.
    key : key file of the pseudonyms, made if missing.
    renamed : names of segments, and the names of the labels that they are.

    Raises
    ------
    OutputError
        If the folder is no review folder, or nothing can be written there.
    ConfigError
        If `renamed` names what is no label, or the key can't be used.
    """
    review = open_review(folder)
    terms = ImportTerms(load_key(key), _checked(renamed or {}, review))
    submissions, refused = collect(review, place)
    beside = frozenset(_digests(submissions, terms.key))
    taken: list[Taken] = []
    for submission in submissions:
        result = _attempt(review, submission, terms, beside)
        if isinstance(result, Taken):
            taken.append(result)
        else:
            refused.append(result)
    rivals = {case.case: standing(review, case.case).rivals for case in review.manifest.cases}
    return ImportSummary(review, tuple(taken), tuple(refused), {name: found for name, found in rivals.items() if found})


def import_submission(
    review: ReviewFolder, submission: Submission, terms: ImportTerms, beside: frozenset[str] = frozenset()
) -> Taken:
    """Take one verdict: check it, compare its mask with the prediction, and keep it as a new version.

    The same again is recognised and not taken twice; after another verdict of the reviewer it is a change of mind,
    unless its date says that it is the older one, or both lie there. The files that are handed in are not changed.

    Parameters
    ----------
    beside : digests of all that was handed in with it.

    Raises
    ------
    ReviewError
        If it can't be taken; nothing is written.
    OutputError
        If it can't be written.
    """
    case = review.case(submission.case)
    who = _reviewer(submission.reviewer, terms.key)
    digest = _digest(submission, who)
    before = _taken_before(review, submission, who, digest, beside)
    if before:
        return Taken(before, was_taken=True)
    _check_judged(submission, case)
    status, mask, changes = _judged(review, case, submission, terms)
    version = Version(
        case=case.case,
        number=1,
        status=status,
        reviewer=who,
        decided=submission.decided,
        imported=timestamp(),
        source=case.source,
        prediction=case.prediction,
        model=case.model,
        submission=digest,
        has_comment=bool(submission.comment),
        changes=changes,
        versions=package_versions(),
    )
    return Taken(store(review, case, version, mask, submission.comment))


def is_taken(review: ReviewFolder, submission: Submission, key: bytes) -> bool:
    """Whether a hand-in has become a version already; raises `ReviewError` if its mask can't be read."""
    who = _reviewer(submission.reviewer, key)
    return _taken_before(review, submission, who, _digest(submission, who)) is not None


def _taken_before(
    review: ReviewFolder, submission: Submission, who: str, digest: str, beside: frozenset[str] = frozenset()
) -> Version | None:
    """Return the version that the same hand-in has become; None if it is new or said anew."""
    theirs = [version for version in versions_of(review.path, submission.case) if version.reviewer == who]
    same = next((version for version in reversed(theirs) if version.submission == digest), None)
    is_said_anew = same is not None and same is not theirs[-1] and theirs[-1].submission not in beside
    if same is None or (is_said_anew and same.decided >= theirs[-1].decided):
        return None
    is_of_another = submission.is_of_prediction and submission.prediction not in ("", same.prediction)
    return None if is_of_another else same


def _check_judged(submission: Submission, case: ReviewCase) -> None:
    """Refuse a verdict on another scan or prediction than the review holds now."""
    if submission.source not in ("", case.source):
        raise ReviewError(
            Refusal.CHANGED_SCAN, f"{case.case}: its scan has been replaced since this verdict; review the new one"
        )
    if submission.is_of_prediction and submission.prediction not in ("", case.prediction):
        raise ReviewError(
            Refusal.CHANGED_PREDICTION,
            f"{case.case}: it has been segmented again since this verdict; give one on the new mask",
        )


def _judged(
    review: ReviewFolder, case: ReviewCase, submission: Submission, terms: ImportTerms
) -> tuple[Status, Mask | None, tuple[Change, ...]]:
    """Return what the verdict is, the mask that a person stands behind, and how far the prediction is from it."""
    status = submission.status
    if status in ("rejected", "flagged"):
        return ("rejected" if status == "rejected" else "flagged"), None, ()
    prediction = review.prediction(case)
    if submission.mask is None:
        if status != "accepted":
            raise ReviewError(
                Refusal.NO_MASK, f"{case.case}: it is called {status or 'reviewed'}, but there is no mask; save one"
            )
        mask = prediction
    else:
        _check_series(submission.mask, case, terms.key)
        reading = Terms(is_final=status in WITH_MASK, renamed=terms.renamed)
        mask = read_corrected(submission.mask, case, review.labels, prediction, reading)
    scores = evaluate_case(prediction, mask, review.labels, case=case.case)
    is_same = np.array_equal(mask.array, prediction.array)
    return ("accepted" if is_same else "corrected"), mask, tuple(map(Change.of, scores))


def _attempt(
    review: ReviewFolder, submission: Submission, terms: ImportTerms, beside: frozenset[str]
) -> Taken | Refused:
    """Take a verdict, or say why not; a full disk ends the import, because nothing else would end better."""
    case = printable(submission.case)
    try:
        return import_submission(review, submission, terms, beside)
    except ReviewError as error:
        return Refused(case, error.code, str(error))
    except (ScanError, LabelError) as error:
        return Refused(case, Refusal.UNREADABLE, f"{case}: {printable(str(error))}")


def _check_series(path: Path, case: ReviewCase, key: bytes) -> None:
    """Refuse a DICOM segmentation of another series."""
    if not path.name.lower().endswith(DICOM_ENDING) or not case.series:
        return
    from medseg.io.dicom_seg_read import series_of  # pydicom costs 0.2 s

    try:
        series = series_of(path)
    except ScanError as error:
        raise ReviewError(Refusal.UNREADABLE, f"{case.case}: {error}") from None
    if pseudonym(key, series, "series") != case.series:
        raise ReviewError(
            Refusal.OTHER_CASE,
            f"{case.case}: the segmentation refers to another series (or the key file is another one: --key)",
        )


def _reviewer(code: str, key: bytes) -> str:
    """Return a reviewer's pseudonym; upper and lower case and spaces make no difference."""
    folded = " ".join(code.split()).casefold()
    return pseudonym(key, f"reviewer|{folded}", "reviewer") if folded else ""


def _digests(submissions: Iterable[Submission], key: bytes) -> Iterator[str]:
    """Yield the digests of hand-ins; one that can't be read has none."""
    for one in submissions:
        with suppress(ReviewError):
            yield _digest(one, _reviewer(one.reviewer, key))


def _digest(submission: Submission, who: str) -> str:
    """Return what tells one hand-in from another; the mask counts by its contents."""
    try:
        mask = digest_files([submission.mask]) if submission.mask else ""
    except OSError as error:
        raise ReviewError(Refusal.UNREADABLE, f"{submission.case}: its mask can't be read ({error.strerror})") from None
    return digest_json([submission.status, who, mask, submission.decided, submission.comment])


def _checked(renamed: Mapping[str, str], review: ReviewFolder) -> Mapping[str, str]:
    known = {label.name for label in review.labels.labels}
    unknown = sorted(set(renamed.values()) - known)
    if unknown:
        raise ConfigError(f"no label is called {', '.join(unknown)}; the labels are {review.labels.describe()}")
    return renamed
