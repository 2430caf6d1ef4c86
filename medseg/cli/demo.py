"""``medseg demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    data_only: Annotated[
        Path | None, typer.Option(help="Only make the sample scans, in this folder, and stop.")
    ] = None,
) -> None:
    """Show the main job on sample scans: make them, train, segment unseen ones, evaluate, draw pictures.

    Takes about five minutes on two cores.

    Example: `medseg demo --output demo`
    """
