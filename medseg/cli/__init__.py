"""The command line: ``medseg <verb>``. Each verb is a thin shell over functions; no logic lives here.

Everything heavy is imported inside the verbs, so that ``medseg --help`` answers at once.
"""

from __future__ import annotations

from medseg.cli.app import main

__all__ = ["main"]
