"""The console on which nothing that is printed can steer the terminal; loads rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from medseg.text import printable


class SafeConsole(Console):
    """A console that replaces control characters in text before it is styled, and breaks no line of a log.

    File names may hold escape sequences, which clear the screen, rename the window or worse. Rich itself
    removes only some of them (bell, backspace, carriage return), and not the escape character. It also breaks
    lines at 80 characters where there is no terminal: a path in two pieces can be neither copied nor searched.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, but texts in one line each where there is no terminal."""
        is_text = all(isinstance(each, str) for each in objects)
        super().print(*objects, **{"soft_wrap": is_text and not self.is_terminal, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` as rich shows it, without control characters; see `rich.console.Console.render_str`."""
        return super().render_str(printable(text, lines=True), **options)
