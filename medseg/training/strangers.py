"""Unlabelled scans that can't be read, or don't look like the labelled ones, stay out of a training.

Scans with pseudo-labels were judged when these were made, by more than their looks.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from medseg.catalog.listing import shown
from medseg.config import UnlabelledConfig
from medseg.errors import DatasetError, ScanError
from medseg.io.tables import write_csv
from medseg.preprocessing.cache import Cache
from medseg.preprocessing.likeness import Appearance, describe_appearance, strange_appearance
from medseg.training.lessons import learns_unlabelled
from medseg.training.setup import Setup
from medseg.volume import Case

LEFT_OUT = "left_out.csv"
"""Which unlabelled scans were left out, and why; in the run folder."""

logger = logging.getLogger(__name__)


def without_strangers(setup: Setup, config: UnlabelledConfig, output: Path, cache_folder: Path) -> Setup:
    """Return the setup without unlabelled scans that don't belong; `LEFT_OUT` in `output` names them.

    Parameters
    ----------
    config : `leave_out` of it, and whether the method can't do without unlabelled scans.
    cache_folder : where cases are kept as the network would see them.

    Raises
    ------
    DatasetError
        If the method needs unlabelled scans and none is left.
    """
    if not config.leave_out or not setup.unlabelled or config.method == "pseudo-labels":
        return setup
    cache = Cache(cache_folder, ram_gb=0)  # each is looked at once

    def look(case: Case) -> Appearance:
        return describe_appearance(cache.prepare([case], setup.plan, setup.dataset.labels)[0].whole()[0])

    def judge(case: Case) -> str:
        try:
            return strange_appearance(look(case), labelled)
        except ScanError as error:
            return str(error)

    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="medseg-look") as pool:
        labelled = list(pool.map(look, setup.train))
        reasons = list(pool.map(judge, setup.unlabelled))
    judged = list(zip(setup.unlabelled, reasons, strict=True))
    strange = [(case.id, reason) for case, reason in judged if reason]
    write_csv(output / LEFT_OUT, ["case", "reason"], strange)
    if strange:
        logger.warning(
            "%d of %d unlabelled scans are left out, each with its reason in %s: %s",
            len(strange), len(judged), output / LEFT_OUT, shown([case for case, _ in strange]),
        )  # fmt: skip
    kept = tuple(case for case, reason in judged if not reason)
    if not kept and learns_unlabelled(config):
        raise DatasetError(
            f"none of the {len(judged)} unlabelled scans looks like the labelled ones ({strange[0][0]}: "
            f"{strange[0][1]}); see {output / LEFT_OUT}, or train with unlabelled.method=supervised"
        )
    return replace(setup, unlabelled=kept)
