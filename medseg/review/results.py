"""What a review says of the model: ``reviews.csv``, and the comparison of predictions with reviewed masks.

The cases of a review are the doubtful ones, chosen by their priority: what is measured on them is the model's
true quality *on these cases*, and worse than its quality on all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medseg.io.tables import write_csv
from medseg.quality.evaluate import Evaluation
from medseg.quality.metrics import DEFAULT_TOLERANCE_MM
from medseg.review.folder import ReviewFolder
from medseg.review.versions import Version, standing, versions_of

TABLE = "reviews.csv"
HEADER = (
    "case", "version", "status", "reviewer", "decided", "holds", "structure", "state", "dice", "hd95_mm", "nsd",
    "before_ml", "after_ml", "added_ml", "removed_ml",
)  # fmt: skip


def write_reviews(review: ReviewFolder, path: Path) -> None:
    """Write every version of every case, a row a structure; comments stay where they are.

    Raises
    ------
    OutputError
        If a record can't be read, or the table can't be written.
    """
    write_csv(path, HEADER, (row for case in review.manifest.cases for row in _rows(review, case.case)))


def standing_versions(review: ReviewFolder) -> tuple[Version, ...]:
    """Return for each case the version that holds, in the order of the worklist; without cases in conflict."""
    found = (standing(review, case.case).version for case in review.manifest.cases)
    return tuple(version for version in found if version)


def evaluation(review: ReviewFolder) -> Evaluation:
    """Return the comparison of predictions with the reviewed masks that hold."""
    scores = [change.score(version.case) for version in standing_versions(review) for change in version.changes]
    return Evaluation(
        scores=tuple(scores),
        problems=(),
        unmatched=(),
        not_run=(),
        labels=review.labels,
        tolerance_mm=DEFAULT_TOLERANCE_MM,
    )


def _rows(review: ReviewFolder, case: str) -> Iterator[list[object]]:
    holding = standing(review, case).version
    for version in versions_of(review.path, case):
        holds = "yes" if holding and holding.number == version.number else "no"
        start: list[object] = [case, version.name, version.status, version.reviewer, version.decided, holds]
        if not version.changes:
            yield [*start, *[None] * (len(HEADER) - len(start))]
        for change in version.changes:
            added, removed = change.after_ml - change.kept_ml, change.before_ml - change.kept_ml
            measured = (change.dice, change.hd95_mm, change.nsd, change.before_ml, change.after_ml, added, removed)
            rounded = [None if value is None else round(value, 6) + 0.0 for value in measured]
            yield [*start, change.structure, str(change.state), *rounded]
