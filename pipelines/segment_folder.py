"""From a folder of scans to masks, volumes and a report, and to scores where true masks are known.

    python pipelines/segment_folder.py my_scans runs/mine/model results
    python pipelines/segment_folder.py my_scans runs/mine/model results my_true_masks

`medseg segment` and `medseg evaluate` do the same. Read this to see the stages, or copy it to change one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from medseg.batch.segment_folder import segment_folder
from medseg.batch.summary import CaseResult, RunSummary
from medseg.catalog.index import index_scans
from medseg.errors import MedsegError
from medseg.labels import load_label_map
from medseg.quality.evaluate import evaluate_folder
from medseg.quality.report import write_report
from medseg.quality.tables import score_table, write_scores
from medseg.quality.viewer import draw_case

screen = Console(highlight=False, markup=False, soft_wrap=True)


def main(scans: Path, model: Path, results: Path, truths: Path | None = None) -> int:
    """Segment `scans` with `model` into `results`; compare with `truths` if given."""
    show_scans(scans)
    summary = segment(scans, model, results)
    show_volumes(summary)
    show_doubts(results)
    if truths:
        evaluate(results, truths)
    return summary.exit_code


def show_scans(scans: Path) -> None:
    """Say what is in the folder, and of what can't be used, why; nothing is guessed."""
    catalog = index_scans(scans)
    screen.print(f"{len(catalog.cases())} scans in {scans}")
    for entry in catalog.with_status("refused"):
        screen.print(f"refused: {entry.message}")


def segment(scans: Path, model: Path, results: Path) -> RunSummary:
    """Make a mask and a picture of every scan; what is done already is not done again."""

    def tell(result: CaseResult, ended: int, total: int) -> None:
        screen.print(f"{ended} of {total}: {result.case} {result.status} {result.message}")

    return segment_folder(scans, model, results, picture=draw_case, watcher=tell)


def show_volumes(summary: RunSummary) -> None:
    """Say how much there is of each structure; cases.csv has the same as a table."""
    for result in summary.results:
        if result.record:
            volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in result.record.volumes_ml.items())
            screen.print(f"{result.case}: {volumes}")


def show_doubts(results: Path) -> None:
    """Check the masks without true ones, write report.html and worklist.csv, and name what to look at first."""
    for case in write_report(results).cases[:5]:
        screen.print(
            f"{case.record.case}: {', '.join(map(str, case.flags)) or 'no flags'}, priority {case.priority:.2f}"
        )


def evaluate(results: Path, truths: Path) -> None:
    """Compare the masks with true ones of the same names."""
    evaluation = evaluate_folder(results, truths, load_label_map(results / "run.json"))
    write_scores(evaluation.scores, results / "scores.csv")
    screen.print(score_table(evaluation))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    try:
        sys.exit(main(*map(Path, sys.argv[1:])))
    except MedsegError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from what is done")
