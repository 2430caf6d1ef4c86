"""One lesson of a model, in a process of its own: fine-tune, compare with the model before, say which is better.

Everything that it needs is in a file, everything that it finds in another, so that the server neither loads what
training loads, nor dies of what training dies of.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from pydantic import Field

from medseg.config import ExperimentConfig
from medseg.errors import MedsegError
from medseg.io.files import write_text
from medseg.records import Record

LESSON, OUTCOME, RUN = "lesson.json", "outcome.json", "run"
"""What a lesson's folder holds; RUN is where `medseg.training.fine_tuning` trains."""

PROMOTED, KEPT, FAILED = 0, 3, 1
"""How the process ends."""


class Lesson(Record):
    """What is to be learnt, and what of."""

    experiment: ExperimentConfig = Field(description="The fine-tuning; its dataset says what is held out")
    model: Path = Field(description="Model folder to start from, and to be compared with")
    device: str = Field("auto", description="auto, cpu, cuda, or one GPU such as cuda:1")


class Outcome(Record):
    """What came of it."""

    is_promoted: bool = Field(description="Whether the new model is not worse")
    reason: str = Field(description="Why, in a sentence")
    dice_before: float | None = Field(None, description="Mean held-out Dice of the model before")
    dice_after: float | None = Field(None, description="Mean held-out Dice of the new model")


def learn(lesson: Lesson, folder: Path) -> Outcome:
    """Fine-tune the model in `folder`, and compare it with the one before on the held-out cases.

    Raises
    ------
    MedsegError
        For every problem that a user can mend.
    """
    from medseg.catalog.datasets import read_dataset
    from medseg.networks.model import load_model
    from medseg.provenance import learnt_cases
    from medseg.training.fine_tuning import fine_tune
    from medseg.training.run import RunOptions

    dataset = read_dataset(lesson.experiment.dataset)
    learnt = set(learnt_cases(load_model(lesson.model).provenance))
    new = [case.id for case in dataset.labelled if case.id not in learnt]
    tuned = fine_tune(lesson.experiment, lesson.model, folder, new, RunOptions(device=lesson.device))
    if tuned is None:
        raise RuntimeError("the training has no limit of time, and yet ran out of it")
    means = {"old": tuned.dice_before, "new": tuned.dice_after}
    words = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items() if mean is not None) or "not measurable"
    return Outcome(
        is_promoted=tuned.promoted,
        reason=f"mean Dice of {len(dataset.validation)} held-out cases: {words}",
        dice_before=tuned.dice_before,
        dice_after=tuned.dice_after,
    )


def main(arguments: Sequence[str]) -> int:
    """Do the lesson of a folder; ends when standard input closes, however the server ended."""
    Thread(target=_end_with_input, daemon=True).start()
    folder = Path(arguments[0])
    lesson = Lesson.model_validate_json((folder / LESSON).read_bytes())
    try:
        outcome = learn(lesson, folder)
        code = PROMOTED if outcome.is_promoted else KEPT
    except MedsegError as error:
        outcome, code = Outcome(is_promoted=False, reason=str(error)), FAILED
    write_text(folder / OUTCOME, outcome.model_dump_json(indent=1) + "\n")
    return code


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
