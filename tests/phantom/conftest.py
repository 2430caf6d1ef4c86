"""Scans that several tests look at; made once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from medseg.phantom.acquisition import Phantom
from medseg.phantom.protocols import NIFTI_PROTOCOLS, draw_scan


@pytest.fixture(scope="session")
def phantoms() -> tuple[Phantom, ...]:
    """One scan of each NIfTI protocol, each of another patient."""
    with ThreadPoolExecutor(2) as workers:
        jobs = enumerate(NIFTI_PROTOCOLS)
        return tuple(workers.map(lambda job: draw_scan(job[1], (7, job[0])), jobs))
