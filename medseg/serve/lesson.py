"""One lesson of a model, in a process of its own: fine-tune, compare with the model before, say which is better.

Everything that it needs is in a file, everything that it finds in another, so that the server neither loads what
training loads, nor dies of what training dies of.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from threading import Thread

from pydantic import BaseModel, ConfigDict, Field

from medseg.config import ExperimentConfig
from medseg.errors import MedsegError
from medseg.io.files import atomic_file

LESSON, OUTCOME, RUN = "lesson.json", "outcome.json", "run"
PROMOTED, KEPT, FAILED = 0, 3, 1
"""How the process ends."""


class Lesson(BaseModel):
    """What is to be learnt, and what of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: ExperimentConfig = Field(description="The fine-tuning; its dataset says what is held out")
    model: Path = Field(description="Model folder to start from, and to be compared with")
    device: str = Field("auto", description="auto, cpu, cuda, or one GPU such as cuda:1")


class Outcome(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_promoted: bool = Field(description="Whether the new model is not worse")
    reason: str = Field(description="Why, in a sentence")
    dice_before: float | None = Field(None, description="Mean held-out Dice of the model before")
    dice_after: float | None = Field(None, description="Mean held-out Dice of the new model")


def learn(lesson: Lesson, folder: Path) -> Outcome:
    """Fine-tune the model in `folder`, and compare it with the one before on the held-out cases.

    The new model is not worse if the mean paired difference of the cases' Dice is not below 0, and no structure loses
    more than chance (`medseg.training.promotion.compare`).

    Raises
    ------
    MedsegError
        For every problem that a user can mend.
    """
    from medseg.catalog.datasets import read_dataset
    from medseg.inference.hardware import choose_device, fit_threads
    from medseg.networks.model import load_model
    from medseg.training.promotion import by_case, compare, held_out_scores
    from medseg.training.run import RunOptions, run_training
    from medseg.training.validation import Validator, score

    run = run_training(lesson.experiment, folder / RUN, RunOptions(device=lesson.device, init=lesson.model))
    dataset, device = read_dataset(lesson.experiment.dataset), choose_device(lesson.device)
    fit_threads()
    before = load_model(lesson.model, device)
    networks = [network.to(device) for network in before.networks]
    cases = dataset.select(dataset.validation)
    compared = Validator(cases, before.plan, before.labels, before.inference, device).compare(networks)
    old, new = held_out_scores(score(compared, before.labels)), held_out_scores(run.scores)
    verdict = compare(new, old)
    means = {name: fmean(by_case(scores).values()) for name, scores in (("old", old), ("new", new)) if by_case(scores)}
    words = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()) or "not measurable"
    return Outcome(
        is_promoted=verdict.passed,
        reason=f"mean Dice of {len(cases)} held-out cases: {words}",
        dice_before=means.get("old"),
        dice_after=means.get("new"),
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
    with atomic_file(folder / OUTCOME) as path:
        path.write_text(outcome.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return code


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
