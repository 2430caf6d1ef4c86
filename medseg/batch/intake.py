"""The scans of a batch: a folder catalogued as its configuration wants, archives unpacked as long as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.batch.places import check_links, check_places
from medseg.catalog.anonymous import without_names
from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.catalog.index import index_scans
from medseg.catalog.unpack import Archives
from medseg.config import BatchConfig
from medseg.errors import ReasonCode
from medseg.io.tables import write_csv
from medseg.text import shown_sizes

SELECTION = "selection.csv"
SELECTION_HEADER = ("study", "rank", "case", "choice", "why", "modality", "shape", "spacing_mm", "axcodes")
CHOICES = {None: "chosen", ReasonCode.NOT_SELECTED: "not chosen", ReasonCode.AMBIGUOUS_SERIES: "ambiguous"}


@contextmanager
def open_catalog(scans: Path, output: Path, config: BatchConfig) -> Iterator[Catalog]:
    """Give the catalogue of a folder of scans; files of archives are there until the block ends.

    Parameters
    ----------
    scans : a NIfTI file, a zip archive, a folder of one DICOM series, or any tree of these.
    output : where results will be written.

    Raises
    ------
    ConfigError
        If `scans` is missing, or the key or the rules file is wrong.
    OutputError
        If `output` lies inside `scans` or a link leads there, or an archive can't be unpacked for want of room.
    DatasetError
        If `scans` has too many files.
    """
    if config.workdir is not None:
        check_places(scans, config.workdir, what="folder for unpacked archives")
    rules = None
    if config.series_rule is not None:
        from medseg.catalog.series_rules import read_series_rules  # pydicom costs 0.2 s that other runs need not pay

        rules = read_series_rules(config.series_rule)
    with Archives(config.workdir) as archives:
        catalog = index_scans(scans, key=config.key, policy=config.ingest, rules=rules, archives=archives)
        if scans.is_dir():  # a single scan may lie beside its results
            files = (file for entry in catalog.entries for file in entry.files)
            check_links((file for file in files if file.parent not in catalog.archives), output)
        yield without_names(catalog, config.key) if config.pseudonymize else catalog


def write_selection(catalog: Catalog, output: Path) -> None:
    """Write ``selection.csv`` into a batch's output: every series among which rules chose, its study's best first.

    Where nothing was chosen, that of an earlier run is taken away: it would speak of cases that this one did otherwise.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    ranked = sorted((entry for entry in catalog.entries if entry.rank), key=lambda entry: (entry.study, entry.rank))
    if ranked:
        write_csv(output / SELECTION, SELECTION_HEADER, map(_selection_row, ranked))
    else:
        (output / SELECTION).unlink(missing_ok=True)


def _selection_row(entry: CatalogEntry) -> list[object]:
    shape = shown_sizes(entry.shape or ())
    spacing = shown_sizes(entry.spacing or (), ".4g")
    what = (CHOICES[entry.reason], entry.message, entry.modality, shape, spacing, entry.axcodes)
    return [entry.study, entry.rank, entry.case_id, *what]
