"""Fine-tuning as a server offers it: started, watched, stopped; a better model takes the place of the one before."""

from __future__ import annotations

import json
import logging
import math
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from pydantic import ValidationError

from medseg.catalog.datasets import read_dataset
from medseg.catalog.documents import read_object
from medseg.config import DatasetConfig, TrainingConfig, describe_problems
from medseg.errors import DatasetError
from medseg.interpreter import command_of
from medseg.io.files import write_text
from medseg.provenance import learnt_cases
from medseg.records import find_record
from medseg.review.dataset import write_dataset
from medseg.review.folder import DATASET, ReviewFolder
from medseg.serve.lesson import LESSON, OUTCOME, RUN, Lesson, Outcome
from medseg.serve.refusal import BAD_REQUEST, TOO_MANY, RequestError, sentence_of
from medseg.serve.settings import LESSONS, ServeSettings
from medseg.serve.task import BackgroundTask
from medseg.volume import Case

OFFERED = ("steps", "learning_rate", "freeze_encoder")
"""Fields of the training that a client may choose."""

HELD_OUT_SHARE = 4
"""One of so many labelled patients is held out, of those that the model has not learnt from."""

EXIT_SECONDS = 10.0
WATCH_SECONDS = 0.5

logger = logging.getLogger("medseg.serve")


@dataclass(frozen=True, slots=True)
class Pupil:
    """The model that learns: its folder, its name, its channels, and the cases that it has learnt from."""

    path: Path
    name: str
    channels: tuple[str, ...]
    learnt: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> Pupil:
        """Read what is needed of a model folder."""
        record = read_object(folder / "model.json")
        learnt = frozenset(learnt_cases(record.get("provenance", {})))
        return cls(folder, str(record["name"]), tuple(record["plan"]["channels"]), learnt)


class Teacher:
    """Trains one model at a time.

    Parameters
    ----------
    promote : called with the folder of a model that is not worse than the one before.
    """

    def __init__(self, settings: ServeSettings, pupil: Pupil, promote: Callable[[Path], None]) -> None:
        self._settings, self._promote = settings, promote
        self.pupil = pupil
        self.task: BackgroundTask | None = None
        self.dice: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = settings.output / LESSONS
        self._lock = Lock()

    @property
    def offered(self) -> dict[str, Any]:
        """What a client may choose, with the values that hold if it does not."""
        training = self._settings.experiment.training
        return {name: getattr(training, name) for name in OFFERED}

    def start(self, review: ReviewFolder, wishes: Mapping[str, Any]) -> BackgroundTask:
        """Begin to train on what is labelled now.

        Raises
        ------
        RequestError
            400 for a wish that makes no sense or too few labelled cases, 429 while a training runs.
        """
        with self._lock:
            if self.task and self.task.is_running:
                raise RequestError(TOO_MANY, "a training is running; stop it first, or wait until it has ended")
            folder = self._folder / f"{self._last_number() + 1:03d}"
            lesson = self._lesson(review, wishes)
            write_text(folder / LESSON, lesson.model_dump_json(indent=1) + "\n")
            dataset = lesson.experiment.dataset
            line = f"learning from {len(dataset.train or ())} cases, {len(dataset.validation or ())} held out"
            self._process = subprocess.Popen(
                command_of("medseg.serve.lesson:main", str(folder)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what libraries write there may quote a header
                start_new_session=True,
            )
            self.task = BackgroundTask.begun(self.pupil.name, line)
            logger.info("training %s: %s", folder.name, line)
            Thread(target=self._watch, args=(self.task, self._process, folder), daemon=True).start()
            return self.task

    def stop(self) -> BackgroundTask | None:
        """End the training that runs; returns its task, or None if there is none."""
        with self._lock:
            task, process = self.task, self._process
            if not task or not process or not task.is_running:
                return None
            task.end("STOPPED", "stopped; the model is as it was before")
            logger.info("training stopped")
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # the system can't end one that waits for a disk or a device
            process.wait(EXIT_SECONDS)
        return task

    def progress(self) -> dict[str, Any]:
        """Return how far the training is, as Slicer's module reads it."""
        total = self._settings.experiment.training.steps
        told: dict[str, Any] = {"epoch": 0, "total_epochs": total, "best_metric": self.dice or 0}
        folders = sorted(path.parent for path in self._folder.glob(f"[0-9]*/{LESSON}"))
        if not self.task or not folders:
            return told
        lesson = Lesson.model_validate_json((folders[-1] / LESSON).read_bytes())
        told |= {"epoch": _steps_done(folders[-1]), "total_epochs": lesson.experiment.training.steps}
        return told if self.task.is_running else {**told, "total_time": "ended"}

    def _last_number(self) -> int:
        """Return the highest number of a lesson; folders of earlier ones may have been deleted."""
        names = (folder.name for folder in self._folder.iterdir())
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _lesson(self, review: ReviewFolder, wishes: Mapping[str, Any]) -> Lesson:
        training = self._training(wishes)
        reviewed = {case.id for case in write_dataset(review, self._settings.dataset, self.pupil.channels)}
        source = DatasetConfig(
            folder=review.path / DATASET,
            ingest=self._settings.batch.ingest,
            patients=self._settings.experiment.dataset.patients,
        )
        try:
            dataset = read_dataset(source)
        except DatasetError as error:
            raise RequestError(BAD_REQUEST, f"{error}; label more") from None
        train, held_out = self._divided((*dataset.labelled, *dataset.select(dataset.validation)), dataset.validation)
        if self.pupil.learnt - reviewed >= set(train):
            raise RequestError(BAD_REQUEST, "all labels but those held out are known to the model: label more")
        source = source.model_copy(update={"train": train, "validation": held_out})
        changes = {"name": self.pupil.name, "dataset": source, "training": training}
        experiment = self._settings.experiment.model_copy(update=changes)
        return Lesson(experiment=experiment, model=self.pupil.path, device=self._settings.device)

    def _training(self, wishes: Mapping[str, Any]) -> TrainingConfig:
        known = {name: value for name, value in wishes.items() if name in OFFERED}
        try:
            return TrainingConfig.model_validate({**self._settings.experiment.training.model_dump(), **known})
        except ValidationError as error:
            raise RequestError(BAD_REQUEST, f"training: {describe_problems(error)}") from None

    def _divided(self, labelled: Sequence[Case], listed: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the cases to learn from and those held out, which neither the old nor the new model learns from."""
        known = {case.patient for case in labelled if case.id in self.pupil.learnt}
        held = {case.patient for case in labelled if case.id in set(listed)}
        unseen = sorted({case.patient for case in labelled} - known - held, key=_drawn)
        if not held:
            held = set(unseen[: math.ceil(len(unseen) / HELD_OUT_SHARE)])
        train = [case.id for case in labelled if case.patient not in held]
        if not held or not train:
            raise RequestError(
                BAD_REQUEST,
                f"{len(labelled)} cases are labelled; a training needs one to learn from, and one to be tested on that "
                "the model has not learnt from: label more",
            )
        return train, [case.id for case in labelled if case.patient in held]

    def _watch(self, task: BackgroundTask, process: subprocess.Popen[bytes], folder: Path) -> None:
        total, told = Lesson.model_validate_json((folder / LESSON).read_bytes()).experiment.training.steps, -1
        while True:
            try:
                process.wait(WATCH_SECONDS)
                break
            except subprocess.TimeoutExpired:
                done = _steps_done(folder)
                if done > told:
                    task.details.append(f"step {done} of {total}")
                    told = done
        process.communicate()  # closes its input
        with self._lock:
            if task.is_running:
                self._finish(task, folder, process.returncode)

    def _finish(self, task: BackgroundTask, folder: Path, code: int) -> None:
        outcome = find_record(folder / OUTCOME, Outcome)
        if outcome is None:
            outcome = Outcome(is_promoted=False, reason=f"the training ended without a result (exit code {code})")
        if outcome.is_promoted:
            self._take(task, folder, outcome)
        elif outcome.dice_after is not None:
            task.end("DONE", f"the model before stays in use, the new one is worse: {outcome.reason}")
        else:
            task.end("ERROR", f"no new model: {outcome.reason}")
        logger.info("training %s: %s", folder.name, task.details[-1])

    def _take(self, task: BackgroundTask, folder: Path, outcome: Outcome) -> None:
        model = folder / RUN / "model"
        try:
            self._promote(model)
            self.pupil, self.dice = Pupil.of(model), outcome.dice_after
        except Exception as error:  # whatever it is: a task that never ended would let no other begin
            logger.debug("promotion", exc_info=error)
            task.end("ERROR", f"the new model can't be used: {sentence_of(error)}")
            return
        task.end("DONE", f"the new model is in use: {outcome.reason}")


def _drawn(patient: str) -> str:
    return sha256(patient.encode()).hexdigest()


def _steps_done(folder: Path) -> int:
    """Return how many steps the journal of a training tells of."""
    try:
        last = (folder / RUN / "fit" / "events.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        return int(json.loads(last)["step"])
    except (OSError, ValueError, LookupError):
        return 0
