"""Where the real scans are, and what is said to scripts that train on them: shared by the benchmarks."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def real_scans(*datasets: str) -> Path:
    """Return the folder that MEDSEG_DATA names; ends with what to do where it doesn't.

    Parameters
    ----------
    datasets : folders that are needed in it.
    """
    if not os.environ.get("MEDSEG_DATA"):
        sys.exit(f"set MEDSEG_DATA to the folder that holds {' and '.join(f'{name}/' for name in datasets)}")
    return Path(os.environ["MEDSEG_DATA"])


def training_arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows where runs go and how long they may take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--max-seconds", type=float, help="stop with a checkpoint after this time")
    return parser
