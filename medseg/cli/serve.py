"""``medseg serve``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import Device, Key, Overrides, Policies, Pseudonymize, SeriesRule, Workdir, experiment
from medseg.cli.screen import console

FINE_TUNING = ("training.steps=300", "training.learning_rate=0.0005", "training.warmup_steps=20")
"""How a model is fine-tuned where no configuration says otherwise: a few minutes, at a quarter of the usual rate."""


def serve(
    studies: Annotated[Path, typer.Option(help="Folder of the scans: NIfTI, DICOM, zip; never written to.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for masks, labels, new models and the log.")],
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Model folder.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Without a model: a JSON or YAML file of names and values, as labels.json.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Labelled cases to train on beside those that are labelled here.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Configuration file (YAML) of the fine-tuning; default: 300 steps at a quarter of the usual learning "
            "rate, and every other field's default.",
        ),
    ] = None,
    overrides: Overrides = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    token: Annotated[
        bool, typer.Option("--token/--no-token", help="Only let in who has the token; without: this machine alone.")
    ] = True,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate (PEM): turns https on.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    ahead: Annotated[
        bool, typer.Option("--ahead/--no-ahead", help="Segment all studies in the background from the start.")
    ] = True,
    upload_mb: Annotated[float, typer.Option(min=1, help="Largest label that is taken, MB.")] = 512,
    series_rule: SeriesRule = None,
    pseudonymize: Pseudonymize = False,
    policy: Policies = None,
    key: Key = None,
    workdir: Workdir = None,
    device: Device = "auto",
) -> None:
    """Serve scans, masks and training to 3D Slicer's module MONAI Label, and to a browser.

    Shows an address to enter in Slicer. There: fetch the next scan, the most doubtful first; let the model segment it;
    correct it; submit the label; start a fine-tuning. A new model is used if it is not worse on held-out labels. What
    people submit is kept in OUTPUT/review, every version. docs/serve.md says how to install and connect it.

    Example: `medseg serve --studies scans/ --model runs/liver/model --output served`
    """
    from medseg.config import BatchConfig, parse_policies
    from medseg.serve.server import serve as run
    from medseg.serve.settings import Address, Limits, ServeSettings

    wishes = [*(() if config else FINE_TUNING), *(overrides or ())]
    settings = ServeSettings(
        studies=studies,
        output=output,
        model=model,
        labels=labels,
        dataset=dataset,
        experiment=experiment(config, None, wishes),
        batch=BatchConfig(
            key=key,
            pseudonymize=pseudonymize,
            series_rule=series_rule,
            workdir=workdir,
            ingest=parse_policies(policy or ()),
        ),
        device=device,
        ahead=ahead,
        limits=Limits(upload_mb=upload_mb),
    )
    tell = partial(console().print, soft_wrap=True)  # an address must stay in one piece, to be copied
    run(settings, Address(host, port, token, tls_certificate, tls_key), tell)
