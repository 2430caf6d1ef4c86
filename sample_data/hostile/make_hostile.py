"""Write folders of scans that look ordinary and are not.

    python sample_data/hostile/make_hostile.py OUT [--only NAME]

Each folder of OUT holds one pitfall; ``pitfalls.json`` beside them says what is wrong with it and what
medseg must do. The same call writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pitfalls import files, frames, mixtures, nifti, pixels, placement
from pitfalls.registry import PITFALLS, Pitfall

__all__ = ["PITFALLS", "Pitfall", "main"]

MODULES = (files, placement, mixtures, pixels, frames, nifti)
"""Importing them fills the registry."""


def main() -> None:
    """Write all pitfalls, or those that are named."""
    parser = argparse.ArgumentParser(description="Write folders of scans that look ordinary and are not.")
    parser.add_argument("out", type=Path, help="folder to write to; made if missing")
    parser.add_argument(
        "--only", action="append", choices=sorted(PITFALLS), metavar="NAME", help="this one (repeatable)"
    )
    arguments = parser.parse_args()
    about = {}
    for name in arguments.only or PITFALLS:
        pitfall = PITFALLS[name]
        folder = arguments.out / name
        folder.mkdir(parents=True)
        volumes = pitfall.write(folder)
        about[name] = {
            "wrong": pitfall.wrong, "volumes": len(volumes), "expected": pitfall.expected, "repair": pitfall.repair,
            "flags": pitfall.flags, "studied": pitfall.studied,
        }  # fmt: skip
        print(f"{name}: {pitfall.wrong}")
    (arguments.out / "pitfalls.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
