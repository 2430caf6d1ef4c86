"""One round of learning from corrections, told step by step: learn, compare, segment again, ask for the next.

    python pipelines/review_round.py results/review my_dataset runs/first/model rounds/1
    python pipelines/review_round.py rounds/1/review rounds/1/dataset rounds/1/fine_tuning/run/model rounds/2

Before it, `medseg review import` takes the corrections. The dataset is the one that the model was trained on, or that
of the round before. The new model is used only if held-out cases are not worse. The same command goes on with what a
kill or --max-seconds left behind. docs/review.md says more.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console

from medseg.batch.summary import CaseResult
from medseg.config import ExperimentConfig, load_config, make_segment_config, parse_policies
from medseg.errors import MedsegError
from medseg.quality.tables import score_table
from medseg.review.export import Selection
from medseg.review.folder import open_review
from medseg.review.results import evaluation
from medseg.review.round import RoundOptions, RoundResult, review_round
from medseg.training.fine_tuning import FineTuned, Wishes, experiment_of, for_fine_tuning
from medseg.training.run import RunOptions

screen = Console(highlight=False, markup=False, soft_wrap=True)


def main(review: Path, config: ExperimentConfig, model: Path, output: Path, options: RoundOptions) -> int:
    """Do a round; everything made lies in `output`. Returns 0, or 1 if there is something left to do."""
    show_review(review)
    result = review_round(review, config, model, output, options)
    show_corrections(result)
    if result.fine_tuned is None:
        screen.print("time is up; the same command goes on from the last checkpoint")
        return 1
    show_decision(result.fine_tuned)
    screen.print(f"model: {result.model}")
    show_next(result, review)
    return 0


def show_review(review: Path) -> None:
    """Say how far the masks of the model were from what people left."""
    compared = evaluation(open_review(review))
    if compared.scores:
        screen.print(score_table(compared))


def show_corrections(result: RoundResult) -> None:
    """Say what was learnt from, and what not, and why."""
    found = result.corrections
    screen.print(f"{len(found.new)} reviewed cases are new: {', '.join(case.id for case in found.new)}")
    if found.known:
        screen.print(f"the dataset has a mask, which stays, of {', '.join(found.known)}")
    if found.in_conflict:
        screen.print(f"reviewers disagree, choose with medseg review import --choose: {', '.join(found.in_conflict)}")


def show_decision(outcome: FineTuned) -> None:
    """Say whether the fine-tuned model is promoted, and by what; promotion.json has every score."""
    if outcome.dice_before is not None and outcome.dice_after is not None:
        screen.print(f"held-out Dice ({outcome.measured_on}): {outcome.dice_before:.3f} to {outcome.dice_after:.3f}")
    screen.print(f"{'promoted' if outcome.promoted else 'the model before stays'}: {outcome.reason}")


def show_next(result: RoundResult, review: Path) -> None:
    """Say what to review now."""
    if result.exported is None:
        screen.print(f"next: go on with {review}")
        return
    for _, problem in result.exported.problems:
        screen.print(problem)
    if not result.exported.cases:
        screen.print("next: nothing, no case is left to review")
        return
    script = result.exported.review.path / "review_in_slicer.py"
    screen.print(f"next: {len(result.exported.cases)} cases to review: Slicer --python-script {script}")


def tell(result: CaseResult, ended: int, total: int) -> None:
    """Say that a scan is segmented again."""
    screen.print(f"{ended} of {total}: {result.case} {result.status} {result.message}")


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("review", type=Path, help="review folder whose corrections were imported")
    parser.add_argument("data", type=Path, help="dataset that the model came from, or that of the round before")
    parser.add_argument("model", type=Path, help="model folder to start from")
    parser.add_argument("output", type=Path, help="folder of this round")
    parser.add_argument("--scans", type=Path, help="scans to segment again; default: those in the review folder")
    parser.add_argument("--config", type=Path, help="configuration file; default: what the model was trained with")
    parser.add_argument("--steps", type=int, help="steps of the fine-tuning; default: 500")
    parser.add_argument("--learning-rate", type=float, help="default: 0.0005 (AdamW) or 0.0025 (SGD)")
    parser.add_argument("--freeze-encoder", action="store_true", help="leave the encoder's weights as they are")
    parser.add_argument("--first", type=int, help="export only so many cases, the most doubtful")
    parser.add_argument("--max-seconds", type=float, help="stop training after this time; the same command goes on")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, or one GPU such as cuda:1")
    parser.add_argument("--workers", type=int, help="worker processes that segment; default: one a GPU, one on a CPU")
    parser.add_argument("--policy", action="append", default=[], metavar="CODE=policy", help="as of medseg segment")
    parser.add_argument("--key", type=Path, help="key file of the pseudonyms; the one that the review was made with")
    return parser.parse_args()


def configuration(wanted: argparse.Namespace) -> ExperimentConfig:
    """Return the fine-tuning that the command line asks for."""
    config = load_config(wanted.config) if wanted.config else experiment_of(wanted.model)
    wishes = Wishes(wanted.steps, wanted.learning_rate, wanted.freeze_encoder)
    return for_fine_tuning(config.with_data(wanted.data), wishes)


def how(wanted: argparse.Namespace) -> RoundOptions:
    """Return how the round is to be carried out."""
    return RoundOptions(
        training=RunOptions(wanted.device, max_seconds=wanted.max_seconds, screen=True),
        scans=wanted.scans,
        segment=make_segment_config(
            device=wanted.device, workers=wanted.workers, key=wanted.key, ingest=parse_policies(wanted.policy)
        ),
        selection=Selection(first=wanted.first),
        watcher=tell,
    )


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    asked = arguments()
    try:
        sys.exit(main(asked.review, configuration(asked), asked.model, asked.output, how(asked)))
    except MedsegError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from what is done")
