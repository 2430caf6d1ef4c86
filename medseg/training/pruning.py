"""Prune a trained model, then fine-tune what is left.

::

    OUTPUT/pruned/    the model with fewer feature maps, as it was cut
          /model/     fine-tuned (`medseg.training.run`)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from medseg.config import ExperimentConfig
from medseg.errors import OutputError
from medseg.networks.build import build_blank
from medseg.networks.model import Model, load_model, model_digest, save_model
from medseg.networks.pruning import narrowed_plan, prune
from medseg.plan import Plan
from medseg.quality.expectations import with_held_out
from medseg.training.run import RunOptions, TrainingRun, run_training
from medseg.training.setup import has_trained

PRUNED = "pruned"
"""Folder, in that of a run, of the model as it was cut."""


def save_pruned(folder: Path, keep: float, output: Path) -> Path:
    """Write OUTPUT/pruned, a model that keeps a share of its feature maps, and return the folder.

    Raises
    ------
    OutputError
        If the model itself lies there, or one that was cut otherwise and has been fine-tuned.
    ModelError, PlanError
        As `pruned_model`.
    """
    target = output / PRUNED
    if target.exists() and target.resolve() == folder.resolve():
        raise OutputError(f"{target}: this is the model itself; give another folder for the pruned one")
    cut = pruned_model(folder, keep)
    if target.exists() and has_trained(output) and load_model(target).provenance != cut.provenance:
        raise OutputError(
            f"{target}: here is what this run fine-tunes, another model or with another share of the feature maps; "
            "choose a new run folder"
        )
    save_model(cut, target)
    return target


def pruned_model(folder: Path, keep: float) -> Model:
    """Return a model whose networks keep a share of their feature maps; it is worse until it is fine-tuned.

    Raises
    ------
    ModelError
        If the folder is no sound model.
    PlanError
        If its network can't be pruned, or `keep` is no share.
    """
    model = load_model(folder)
    plan = narrowed_plan(model.plan, keep)
    return replace(
        model,
        networks=tuple(_smaller(network, plan, model.labels.outputs) for network in model.networks),
        plan=plan,
        scores={},  # as all that held-out cases said, it is of the whole networks
        reference=model.reference and with_held_out(model.reference, (), None),
        provenance={**model.provenance, "pruned_from": model_digest(folder), "keep": keep},
    )


def prune_and_fine_tune(
    config: ExperimentConfig, folder: Path, keep: float, output: Path, options: RunOptions | None = None
) -> TrainingRun:
    """Prune a model and train what is left with a fine-tuning's steps and rate, or go on with that.

    Parameters
    ----------
    config : the experiment; `for_fine_tuning` was applied to it.
    output : run folder.

    Raises
    ------
    MedsegError
        For every problem of model, configuration, data or disk that a user can mend.
    """
    start = save_pruned(folder, keep, output)
    return run_training(config, output, replace(options or RunOptions(), init=start, folds=0))


def _smaller(network: nn.Module, plan: Plan, outputs: int) -> nn.Module:
    smaller = build_blank(plan, outputs)
    smaller.load_state_dict(prune(network, plan.network))
    return smaller.eval()
