"""The scans that are served, by case id; an id is looked up, and never becomes a part of a path by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from medseg.batch.intake import open_catalog
from medseg.batch.listing import list_cases
from medseg.errors import DatasetError, ReasonCode, ScanError
from medseg.io.scan import case_files
from medseg.provenance import digest_files
from medseg.serve.refusal import NOT_FOUND, RequestError
from medseg.serve.settings import ServeSettings
from medseg.volume import Case

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Studies:
    """The scans of a folder.

    Attributes
    ----------
    cases : those that are sound, by id.
    refused : how many are not.
    """

    cases: Mapping[str, Case]
    refused: int = 0

    def case(self, name: str) -> Case:
        """Return a case; raises `RequestError` (404) if there is none of this name."""
        try:
            return self.cases[name]
        except KeyError:
            raise RequestError(NOT_FOUND, "there is no case of this name; /datastore/?output=all names them") from None


@contextmanager
def open_studies(settings: ServeSettings, channels: int) -> Iterator[Studies]:
    """Give the scans of the studies folder; files of archives are there until the block ends.

    Raises
    ------
    ConfigError, OutputError, DatasetError
        As `medseg.batch.intake.open_catalog`, and if no scan can be served.
    """
    with open_catalog(settings.studies, settings.output, settings.batch) as catalog:
        listing = list_cases(catalog, channels)
        if not listing.cases:
            reason = f"; {listing.rejected[0].message}" if listing.rejected else ""
            raise DatasetError(f"{settings.studies}: there is no scan to serve{reason}")
        cases = {case.id: case for case in sorted(listing.cases, key=lambda case: case.id)}
        yield Studies(cases, len(listing.rejected))


def digest_of(case: Case) -> str:
    """Return the digest of the files of a scan; raises `ScanError` (`UNREADABLE`) if one can't be read."""
    try:
        return digest_files(case_files(case))
    except OSError as error:
        raise ScanError(ReasonCode.UNREADABLE, f"{case.id}: its scan can't be read ({error.strerror})") from None


def stamp_of(case: Case) -> Stamp | None:
    """Return size, time of change and number on its disk of each file of a scan; None if one is not there now."""
    try:
        states = [file.stat() for file in case_files(case)]
    except OSError:
        return None
    return tuple((state.st_size, state.st_mtime_ns, state.st_ino) for state in states)
