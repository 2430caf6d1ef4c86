"""The console on which nothing that is printed can steer the terminal; loads rich."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

from rich.console import Console
from rich.text import Text

from medseg.cli.screen import show_error
from medseg.text import printable


class SafeConsole(Console):
    """A console that replaces control characters in text before it is styled, and breaks no line of a log.

    File names may hold escape sequences, which clear the screen, rename the window or worse. Rich itself
    removes only some of them (bell, backspace, carriage return), and not the escape character. It also breaks
    lines at 80 characters where there is no terminal: a path in two pieces can be neither copied nor searched.

    What can't be shown, because the log's disk is full, the terminal is gone or nobody reads any more (``| head``), is
    not shown, and the work goes on.
    """

    has_told: ClassVar[bool] = False
    """Whether standard error has a sentence on that."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, but texts in one line each where there is no terminal."""
        is_text = all(isinstance(each, str) for each in objects)
        super().print(*objects, **{"soft_wrap": is_text and not self.is_terminal, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` as rich shows it, without control characters; see `rich.console.Console.render_str`."""
        return super().render_str(printable(text, lines=True), **options)

    def on_broken_pipe(self) -> None:
        """Show nothing more, where rich would end the process, too."""
        with suppress(SystemExit):
            super().on_broken_pipe()

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            del self._buffer[:]  # there may be room again for the next lines
            if not SafeConsole.has_told:
                SafeConsole.has_told = True
                show_error(f"not all that is to be shown can be written ({error.strerror}); the work goes on")
