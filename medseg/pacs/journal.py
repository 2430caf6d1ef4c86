"""``history.jsonl`` of a queue: what happened to each study, a line of JSON each, only ever added to.

Studies are called by their pseudonyms. Lines are told to whoever shows them, too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from medseg.io.files import append_line, flush_file
from medseg.io.tables import OWNER_ONLY
from medseg.provenance import timestamp
from medseg.text import printable

HISTORY = "history.jsonl"

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Shows a line to the person who runs the node."""


class Journal:
    """What happened, on disk and on the screen; may be written to from any thread."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self._path, self._tell, self._turn = folder / HISTORY, tell, Lock()

    def write(self, event: str, sentence: str, **details: object) -> None:
        """Add a line and show it; a full disk, which is met elsewhere, or a closed screen keeps nobody from working."""
        line = {"time": timestamp(), "event": event, **details}
        with self._turn:
            try:
                append_line(self._path, json.dumps(line).encode(), mode=OWNER_ONLY)
                flush_file(self._path)
            except OSError as error:
                logger.debug("history", exc_info=error)
            try:
                self._tell(printable(sentence))
            except (OSError, SystemExit) as error:  # rich ends the process where nobody reads its output any more
                logger.debug("screen", exc_info=error)
