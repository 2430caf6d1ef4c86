"""``medseg plan`` and ``medseg prepare``: the first two steps of a training run, on their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import ConfigFile, DataFolder, Overrides, experiment
from medseg.cli.screen import console

PlanFolder = Annotated[Path, typer.Option("--output", "-o", help="Run folder; `medseg train` goes on from it.")]


def plan(
    output: PlanFolder,
    config: ConfigFile = None,
    data: DataFolder = None,
    overrides: Overrides = None,
) -> None:
    """Choose spacing, patch, normalisation and network for a dataset, and say why.

    Writes OUTPUT/fingerprint.json (what the data are like) and OUTPUT/plan.yaml (what follows). Edit the plan if you
    know better: `medseg train` with the same output uses it as it stands.

    Example: `medseg plan --data my_dataset --output runs/liver --set plan.memory_gb=11`
    """
    from rich.table import Table

    from medseg.planning import describe_plan
    from medseg.training.setup import set_up

    made = set_up(experiment(config, data, overrides), output).plan
    table = Table("choice", "value", "why", title=str(output / "plan.yaml"))
    for line in describe_plan(made):
        table.add_row(*line)
    console().print(table)


def prepare(
    output: PlanFolder,
    config: ConfigFile = None,
    data: DataFolder = None,
    overrides: Overrides = None,
) -> None:
    """Bring the training scans to the plan's grid and keep them in the run folder's cache.

    `medseg train` does this by itself; do it beforehand where the training machine's time is dear. What is
    prepared already and unchanged is not done again.

    Example: `medseg prepare --data my_dataset --output runs/liver`
    """
    from medseg.preprocessing.cache import Cache
    from medseg.provenance import usable_cores
    from medseg.training.setup import set_up

    setup = set_up(experiment(config, data, overrides), output)
    cases = Cache(output / "cache").prepare(setup.train, setup.plan, setup.dataset.labels, usable_cores())
    console().print(f"{len(cases)} cases prepared in {output / 'cache'}")
