"""What an earlier export and people's work since have left in a review folder: a new export must lose nothing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.review.folder import CORRECTED, MANIFEST, REVIEWS, WORKLIST, ReviewCase, ReviewFolder, open_review
from medseg.review.importing import is_taken
from medseg.review.refusal import Refusal, ReviewError
from medseg.review.session import ENDING, SEPARATOR, SESSION
from medseg.review.submissions import Submission, collect


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a review folder holds before it is written again.

    Attributes
    ----------
    review : the folder; None if nothing was exported there yet.
    key : of the pseudonyms of reviewers.
    cases : by id.
    handed_in : verdicts and masks that lie there, imported or not.
    refused : ids of cases of which something lies there that can't be understood.
    edited : ids of cases with edits that have no verdict yet.
    """

    review: ReviewFolder | None = None
    key: bytes = b""
    cases: Mapping[str, ReviewCase] = field(default_factory=dict)
    handed_in: Sequence[Submission] = ()
    refused: frozenset[str] = frozenset()
    edited: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: Path, key: bytes) -> Earlier:
        """Return what a folder holds; raises `OutputError` if its record can't be read."""
        if not (folder / MANIFEST).exists():
            return cls()
        review = open_review(folder)
        handed_in, refused = collect(review)
        edits = (folder / SESSION).glob(f"*{SEPARATOR}*{ENDING}")
        return cls(
            review,
            key,
            {case.case: case for case in review.manifest.cases},
            handed_in,
            frozenset(one.case for one in refused),
            frozenset(path.name.partition(SEPARATOR)[0] for path in edits),
        )

    def is_other(self, case: ReviewCase) -> bool:
        """Whether a case had another scan or another prediction, so that verdicts of then say nothing of it."""
        before = self.cases.get(case.case)
        return before is not None and (before.source, before.prediction) != (case.source, case.prediction)

    def is_worked_on(self, case: str) -> bool:
        """Whether anybody has given a verdict on a case, imported or not, or begun to edit it."""
        if case in self.refused | self.edited or any(one.case == case for one in self.handed_in):
            return True
        return self.review is not None and (self.review.path / REVIEWS / case).exists()

    def check_finished(self, case: str) -> None:
        """Refuse to draw a case anew while people's work on the mask that is there would be taken for the new one's.

        Raises
        ------
        ReviewError
            `NOT_IMPORTED`.
        """
        if case in self.edited:
            raise ReviewError(
                Refusal.NOT_IMPORTED,
                f"{case}: it was segmented again, and {SESSION}/ holds edits of the older mask; give them a verdict in "
                f"Slicer and run medseg review import, or delete {SESSION}/{case}{SEPARATOR}*{ENDING}",
            )
        if case in self.refused or self._is_waiting(case):
            raise ReviewError(
                Refusal.NOT_IMPORTED,
                f"{case}: it was segmented again, and {CORRECTED}/ or {WORKLIST} holds a verdict on the older mask; "
                "run medseg review import first, with the same key file",
            )

    def _is_waiting(self, case: str) -> bool:
        mine = [one for one in self.handed_in if one.case == case]
        return self.review is not None and not all(is_taken(self.review, one, self.key) for one in mine)
