"""``medseg review export`` and ``medseg review import``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import Policies
from medseg.cli.screen import console, show_error

if TYPE_CHECKING:
    from medseg.review.export import ExportSummary
    from medseg.review.importing import ImportSummary

KeyFile = Annotated[Path | None, typer.Option(help="Key file of the pseudonyms; the one that the run was made with.")]


def export(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder that medseg segment wrote.")],
    scans: Annotated[Path, typer.Option(help="The scans that were segmented, wherever they are now.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Review folder; default: RESULTS/review.")
    ] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many cases, the most doubtful.")] = None,
    priority: Annotated[float, typer.Option(min=0, max=1, help="Only cases of at least this priority.")] = 0.0,
    policy: Policies = None,
    key: KeyFile = None,
) -> None:
    """Make a folder in which people review masks with 3D Slicer, the most doubtful case first.

    Writes scans, masks, worklist.csv and a script: `Slicer --python-script review_in_slicer.py` shows case after case
    with buttons to accept, correct, reject or flag it. The folder is complete and may be taken to another computer. The
    same command again adds what is new, and keeps what reviewers did.

    Example: `medseg review export results/liver --scans scans/ --first 20`
    """
    from medseg.config import BatchConfig, parse_policies
    from medseg.review.export import Selection, export_review

    config = BatchConfig(key=key, ingest=parse_policies(policy or ()))
    with console().status("exporting"):
        summary = export_review(results, scans, output or results / "review", Selection(priority, first), config=config)
    show_export(summary)
    raise typer.Exit(summary.exit_code)


def import_(
    review: Annotated[Path, typer.Argument(metavar="REVIEW", help="Folder that medseg review export wrote.")],
    place: Annotated[
        Path | None,
        typer.Option("--from", help="Where reviewers handed in: a copy of REVIEW, a folder of masks, or one mask."),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Dataset to join the reviewed cases to, in REVIEW/dataset.")
    ] = None,
    choose: Annotated[
        list[str] | None,
        typer.Option(metavar="CASE=VERSION", help="Which version holds, where reviewers disagree; may be repeated."),
    ] = None,
    renamed: Annotated[
        list[str] | None,
        typer.Option(metavar="SEGMENT=LABEL", help="A segment's name, and the label that it is; may be repeated."),
    ] = None,
    key: KeyFile = None,
) -> None:
    """Take corrected masks back, and say how good the model was on these cases.

    Takes verdicts and masks (.seg.nrrd, NIfTI, DICOM segmentation) from REVIEW/corrected and REVIEW/worklist.csv. A
    mask that does not fit its scan or its labels is refused with the reason, the others are taken, and the exit code
    is 1. Every version is kept under REVIEW/reviews. Writes REVIEW/reviews.csv, and REVIEW/dataset, on which
    `medseg train` learns from what was accepted and corrected.

    Example: `medseg review import results/liver/review --dataset my_dataset`
    """
    from medseg.review.dataset import read_original, write_dataset
    from medseg.review.folder import open_review
    from medseg.review.importing import import_review
    from medseg.review.results import TABLE, write_reviews
    from medseg.review.versions import choose as choose_version

    folder = open_review(review)
    if dataset:
        read_original(dataset, folder)  # a wrong one is said before anything is taken
    for case, version in pairs(choose, "--choose", "CASE=VERSION").items():
        choose_version(folder, case, version_number(version))
    summary = import_review(review, place, key=key, renamed=pairs(renamed, "--renamed", "SEGMENT=LABEL"))
    write_reviews(folder, review / TABLE)
    learnt = write_dataset(folder, dataset)
    show_import(summary, len(learnt))
    is_choice_alone = choose and not (summary.taken or summary.refused)  # nothing was handed in, and nothing had to be
    raise typer.Exit(int(bool(summary.conflicts)) if is_choice_alone else summary.exit_code)


VERBS: dict[str, Callable[..., None]] = {"export": export, "import": import_}


def pairs(texts: Sequence[str] | None, option: str, form: str) -> dict[str, str]:
    """Return NAME=VALUE options as pairs; raises `ConfigError` for anything else."""
    from medseg.errors import ConfigError

    found = {}
    for text in texts or ():
        name, _, value = text.rpartition("=")
        if not name.strip() or not value.strip():
            raise ConfigError(f"{option} {text!r}: write it as {form}")
        found[name.strip()] = value.strip()
    return found


def version_number(text: str) -> int:
    """Return the number of a version, written as 2 or v002; raises `ConfigError` for anything else."""
    from medseg.errors import ConfigError

    digits = text.lower().removeprefix("v")
    if not digits.isdecimal():
        raise ConfigError(f"{text!r} is no version; write its number, such as 2 or v002")
    return int(digits)


def show_export(summary: ExportSummary) -> None:
    """Print what was exported, what was not, and what to do next."""
    screen = console()
    for _, problem in summary.problems:
        screen.print(problem, style="yellow")
    if not summary.cases:
        show_error("no case was exported")
        return
    folder = summary.review.path
    screen.print(f"{len(summary.cases)} cases to review: {folder}")
    screen.print(f"Next: Slicer --python-script {folder / 'review_in_slicer.py'}")


def show_import(summary: ImportSummary, learnt: int) -> None:
    """Print what was taken, how good the model was, and what needs a person."""
    from medseg.quality.tables import score_table
    from medseg.review.results import TABLE, evaluation

    screen = console()
    new = [one.version for one in summary.taken if not one.was_taken]
    counts = Counter(version.status for version in new)
    words = ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing new"
    screen.print(f"{len(new)} verdicts taken ({words}), {len(summary.taken) - len(new)} known before")
    for refused in summary.refused:
        screen.print(f"refused {refused.case} ({refused.code}): {refused.message}", style="yellow")
    for case, rivals in summary.conflicts.items():
        versions = ", ".join(f"{one.name} {one.status} by {one.reviewer or 'somebody'}" for one in rivals)
        screen.print(f"in conflict {case}: {versions}; choose with --choose {case}=VERSION", style="yellow")
    compared = evaluation(summary.review)
    if compared.scores:
        screen.print(score_table(compared))
        screen.print(
            "Predictions against reviewed masks. These are the reviewed cases: the mean is not that of all cases."
        )
    folder = summary.review.path
    screen.print(f"Every version: {folder / TABLE}\n{learnt} cases to train on: {folder / 'dataset'}")
