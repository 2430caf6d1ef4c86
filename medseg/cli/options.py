"""Arguments that several verbs share, and the configuration they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.config import ExperimentConfig

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file (YAML); see configs/. Default: every field's default."),
]
ModelConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file (YAML); see configs/. Default: the model's own training."),
]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="Dataset folder with images/ and labels/, or a Decathlon or nnU-Net folder."),
]
RunFolder = Annotated[Path, typer.Option("--output", "-o", help="Run folder; a stopped run in it goes on.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change one field of the configuration; may be repeated."),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="CODE=POLICY",
        help="What to do about a fault of a scan, such as MISSING_SLICE=repair: reject, warn or repair. May be "
        "repeated; docs/ingest.md lists the codes.",
    ),
]
MaxSeconds = Annotated[
    float | None, typer.Option(help="Stop after this time, with exit code 1; the same command goes on.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or one GPU such as cuda:1.")]
Scans = Annotated[
    Path, typer.Argument(metavar="SCANS", help="A scan, a zip archive, a DICOM folder, or any tree of these.")
]
SeriesRule = Annotated[
    Path | None,
    typer.Option("--series-rule", help="Rules (YAML) that choose one series of each study; see configs/series_rules/."),
]
Workdir = Annotated[
    Path | None, typer.Option(help="Where zip archives are unpacked meanwhile; default: the temporary folder.")
]
Pseudonymize = Annotated[
    bool, typer.Option("--pseudonymize", help="Name NIfTI scans by pseudonyms too, as DICOM series are.")
]
Key = Annotated[Path | None, typer.Option(help="Key file for the pseudonyms.")]


def split(text: str) -> tuple[str, ...]:
    """Return the words of a list joined by commas."""
    return tuple(word for part in text.split(",") if (word := part.strip()))


def experiment(
    config: Path | None, data: Path | None, overrides: list[str] | None, base: ExperimentConfig | None = None
) -> ExperimentConfig:
    """Return the configuration that the shared options ask for; without a file, that of `base`."""
    from medseg.config import load_config

    loaded = load_config(config, overrides or (), base)
    return loaded if data is None else loaded.with_data(data)
