"""What a training run tells: a JSON-lines file, TensorBoard, and a progress line on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Journal:
    """Record of one training run; only the first process of several writes.

    ``events.jsonl`` has one object a line with its ``event``: step, validation, resumed.

    Parameters
    ----------
    folder : run folder; the file is appended to, so a resumed run keeps its history.
    steps : steps in all.
    active : False on the other processes of a distributed run.
    screen : show a rich progress line.
    """

    def __init__(self, folder: Path, steps: int, *, active: bool = True, screen: bool = False) -> None:
        self._active = active
        self._steps = steps
        self._line = _ProgressLine(folder.name, steps) if active and screen else None
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "events.jsonl").open("a", encoding="utf-8", buffering=1)
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._file.close()
            self._board.close()
        if self._line:
            self._line.close()

    def step(self, step: int, elapsed_s: float, rate: float, terms: dict[str, float]) -> None:
        """Record the terms of the loss after `step` steps."""
        self._write("step", step, elapsed_s=round(elapsed_s, 2), learning_rate=rate, **terms)
        if self._line:
            self._line.update(step, elapsed_s, terms)

    def validation(self, step: int, dice: float) -> None:
        """Record the mean Dice of a whole-volume validation."""
        self._write("validation", step, mean_dice=dice)
        if self._line:
            self._line.validated(dice)

    def resumed(self, step: int) -> None:
        """Record that training goes on from a checkpoint at `step`."""
        self._write("resumed", step)
        if self._line:
            self._line.resumed(step)

    def _write(self, event: str, step: int, **values: float) -> None:
        if not self._active:
            return
        entry: dict[str, Any] = {"event": event, "step": step, **values}
        self._file.write(json.dumps(entry) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{event}/{name}", value, step)


class _ProgressLine:
    """Step, loss, Dice, seconds a step and time left, on one line of the terminal."""

    def __init__(self, title: str, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._steps = steps
        self._seen: tuple[int, float] | None = None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}")
        )
        self._progress.start()
        self._task = self._progress.add_task(title, total=steps, state="")
        self._validated = ""

    def update(self, step: int, elapsed_s: float, terms: dict[str, float]) -> None:
        pace = self._pace(step, elapsed_s)
        left = _clock((self._steps - step) * pace)
        dice = f"  Dice {1 - terms['dice']:.3f}" if "dice" in terms else ""
        state = f"loss {terms['loss']:.3f}{dice}{self._validated}  {pace:.2f} s/step  {left} left"
        self._progress.update(self._task, completed=step, state=state)

    def resumed(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def validated(self, dice: float) -> None:
        self._validated = f"  held-out {dice:.3f}"

    def close(self) -> None:
        self._progress.stop()

    def _pace(self, step: int, elapsed_s: float) -> float:
        """Seconds a step in this sitting: a resumed run may be on another machine."""
        if self._seen is None:
            self._seen = (step, elapsed_s)
            return elapsed_s / step
        first_step, first_s = self._seen
        return (elapsed_s - first_s) / max(1, step - first_step)


def _clock(seconds: float) -> str:
    """Return h:mm:ss.

    >>> _clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
