"""Unlabelled scans that can't be read, or don't look like the labelled ones, stay out of a training.

Scans with pseudo-labels were judged when these were made, by more than their looks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from medseg.errors import ScanError
from medseg.io.tables import write_csv
from medseg.preprocessing.cache import Cache
from medseg.preprocessing.likeness import Appearance, describe_appearance, strange_appearance
from medseg.text import shown
from medseg.training.setup import Setup
from medseg.volume import Case

LEFT_OUT = "left_out.csv"
"""Which unlabelled scans were left out, and why; in the run folder."""

logger = logging.getLogger(__name__)


def find_strangers(unlabelled: Sequence[Case], setup: Setup, output: Path, cache_folder: Path) -> dict[str, str]:
    """Return the unlabelled cases that don't belong, with the reason of each; `LEFT_OUT` in `output` says the same.

    Parameters
    ----------
    setup : has the labelled cases that they are compared with.
    cache_folder : where cases are kept as the network would see them.
    """
    if not unlabelled:
        return {}
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
        reasons = list(pool.map(judge, unlabelled))
    strange = {case.id: reason for case, reason in zip(unlabelled, reasons, strict=True) if reason}
    write_csv(output / LEFT_OUT, ["case", "reason"], strange.items())
    if strange:
        logger.warning(
            "%d of %d unlabelled scans are left out, each with its reason in %s: %s",
            len(strange), len(unlabelled), output / LEFT_OUT, shown(list(strange)),
        )  # fmt: skip
    return strange
