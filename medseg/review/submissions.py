"""What reviewers hand in: verdicts and masks, from the session in Slicer, from worklist.csv, or as bare files.

A mask is called after its case, ``<case>.seg.nrrd``; ``<case>~<reviewer>.seg.nrrd`` where several people review.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import OutputError
from medseg.review.corrected import ENDINGS
from medseg.review.folder import CORRECTED, MANIFEST, WORKLIST, ReviewFolder, open_review
from medseg.review.refusal import Refusal, ReviewError
from medseg.review.session import IN_PROGRESS, SEPARATOR, STATUSES, SessionError, clean_code, read_decision
from medseg.review.worklist import Row, read_worklist
from medseg.text import printable


@dataclass(frozen=True, slots=True)
class Submission:
    """One reviewer's verdict on one case.

    Attributes
    ----------
    case : its id.
    status : accepted, corrected, rejected or flagged; "" for a mask alone, which its segments' status must finish.
    mask : the mask; None: what the model drew, or nothing.
    reviewer : a code, as it was entered.
    decided : when, ISO 8601, by the reviewer's clock; "" where unknown.
    comment : free text, which may name a patient.
    source, prediction : digests of the scan and of the model's mask that the verdict is about; "" where unknown.
    """

    case: str
    status: str = ""
    mask: Path | None = None
    reviewer: str = ""
    decided: str = ""
    comment: str = ""
    source: str = ""
    prediction: str = ""

    @property
    def is_of_prediction(self) -> bool:
        """Whether it says something of the model's mask, instead of handing in one that stands for itself."""
        return self.mask is None or self.status in ("rejected", "flagged")


@dataclass(frozen=True, slots=True)
class Refused:
    """What was not taken: the case that it was meant for, the reason as a word and as a sentence."""

    case: str
    code: Refusal
    message: str


def collect(review: ReviewFolder, place: Path | None = None) -> tuple[list[Submission], list[Refused]]:
    """Return what was handed in, and what of it can't be understood.

    Parameters
    ----------
    place : a copy of the review folder, a folder of masks, or one mask; default: the review folder itself.

    Raises
    ------
    OutputError
        If `place` isn't there, or is a review folder whose record can't be read.
    """
    place = place or review.path
    if not place.exists():
        raise OutputError(f"{place}: there is no such file or folder; give what the reviewers saved")
    shown = _shown(review, place)
    files = _files(place / CORRECTED if (place / MANIFEST).is_file() else place)
    verdicts = {path.stem: path for path in files if path.suffix == ".json"}
    masks = _masks(files)
    found: dict[str, Submission] = {}
    refused = [
        Refused(path.name, Refusal.UNREADABLE, f"{printable(path.name)} is no file that ends in {', '.join(ENDINGS)}")
        for path in files
        if path not in verdicts.values() and not _stem(path)
    ]
    for stem in sorted({*verdicts, *masks}):
        case, _, reviewer = stem.partition(SEPARATOR)
        try:
            mask = _only(masks.get(stem, []))
            if stem in verdicts:
                found[stem] = _from_decision(verdicts[stem], mask)
            else:
                found[stem] = replace(shown.get(case, Submission(case)), mask=mask, reviewer=reviewer)
        except ReviewError as error:
            refused.append(Refused(case, error.code, str(error)))
    spoken_for = {one.case for one in refused}
    refused += _add_rows(place / WORKLIST, found, spoken_for, shown)
    return [found[stem] for stem in sorted(found)], refused


def _shown(review: ReviewFolder, place: Path) -> dict[str, Submission]:
    """Return what each case showed there: a copy may be older than the folder."""
    if not (place / MANIFEST).is_file():
        return {}
    cases = (review if place == review.path else open_review(place)).manifest.cases
    return {case.case: Submission(case.case, source=case.source, prediction=case.prediction) for case in cases}


def _files(place: Path) -> list[Path]:
    paths = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    return [path for path in paths if not path.name.startswith(".") and path.name != WORKLIST]


def _masks(files: list[Path]) -> dict[str, list[Path]]:
    """Return the masks among files, by their names without endings."""
    masks: dict[str, list[Path]] = {}
    for path in files:
        if stem := _stem(path):
            masks.setdefault(stem, []).append(path)
    return masks


def _only(masks: list[Path]) -> Path | None:
    if len(masks) > 1:
        names = " and ".join(printable(path.name) for path in masks)
        raise ReviewError(Refusal.REPEATED_MASK, f"{names} are masks of the same case; keep the one that is meant")
    return masks[0] if masks else None


def _from_decision(path: Path, mask: Path | None) -> Submission:
    try:
        decision = read_decision(path)
    except SessionError as error:
        raise ReviewError(Refusal.UNREADABLE, str(error)) from None
    if decision.status == IN_PROGRESS:
        raise ReviewError(Refusal.UNFINISHED, f"{path.name}: the reviewer did not finish; give a verdict in Slicer")
    if decision.status not in STATUSES or decision.case != path.stem.partition(SEPARATOR)[0]:
        raise ReviewError(Refusal.UNREADABLE, f"{path.name} is not what a session writes; give the verdict again")
    if decision.mask and not mask:
        raise ReviewError(Refusal.NO_MASK, f"{path.name} names a mask that is not beside it; copy it, too")
    return Submission(
        decision.case,
        decision.status,
        mask if decision.mask else None,
        decision.reviewer,
        decision.decided,
        decision.comment,
        decision.source,
        decision.prediction,
    )


def _add_rows(
    path: Path, found: dict[str, Submission], spoken_for: Container[str], shown: Mapping[str, Submission]
) -> Iterator[Refused]:
    """Join the verdicts of the worklist to what was handed in; a case's own files say more than its row.

    A case of which a file was refused stays refused: its row alone would take the unedited mask for the verdict.
    """
    if not path.is_file():
        return
    try:
        rows, problems = read_worklist(path)
    except ReviewError as error:
        yield Refused("", error.code, str(error))
        return
    yield from (Refused(bad.case, Refusal.WORKLIST, bad.message) for bad in problems)
    for row in rows:
        if row.case in spoken_for:
            continue
        where = f"{path.name}, line {row.line}"
        stem = _stem_of(row, found)
        there = found.get(stem)
        if not stem:
            message = (
                f"{where}: several people handed in {row.case}; write into the column reviewer whose verdict it is"
            )
            yield Refused(row.case, Refusal.WORKLIST, message)
        elif there is None or not there.status:
            found[stem] = _from_row(row, there or shown.get(row.case, Submission(row.case)))
        elif there.status != row.status:
            found.pop(stem)
            message = f"{where}: {row.status}, but elsewhere {row.case} is {there.status}; make them agree"
            yield Refused(row.case, Refusal.WORKLIST, message)


def _stem_of(row: Row, found: Mapping[str, Submission]) -> str:
    """Return the name of the hand-in that a row is about, be it new; "" if nobody can know.

    A row with a code is about its reviewer's hand-in, or one without a code. A row without a code is about the one
    that is called after the case alone, or the only one.
    """
    of_case = {stem: one for stem, one in found.items() if one.case == row.case}
    if row.reviewer:
        code = clean_code(row.reviewer)
        mine = [stem for stem, one in of_case.items() if clean_code(one.reviewer).casefold() == code.casefold()]
        unsigned = [stem for stem, one in of_case.items() if not one.reviewer]
        return (*mine, *unsigned, row.case + SEPARATOR + code)[0]
    if row.case in of_case or not of_case:
        return row.case
    return next(iter(of_case)) if len(of_case) == 1 else ""


def _from_row(row: Row, base: Submission) -> Submission:
    reviewer = base.reviewer or row.reviewer
    return replace(base, status=row.status, reviewer=reviewer, decided=row.decided, comment=row.comment)


def _stem(path: Path) -> str:
    """Return a mask's name without its ending; "" for what is no mask."""
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")
    return path.name[: -len(ending)] if ending and not path.name.startswith(".") else ""
