"""The DICOM part of the catalogue: series out of any number of files in any folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from medseg.catalog.entries import UNREAD_ENDINGS, CatalogEntry
from medseg.catalog.identity import load_key, pseudonym, unused_pseudonym
from medseg.catalog.index_run import IndexRun
from medseg.catalog.memory import Kind
from medseg.catalog.series_choice import choose_series, study_of
from medseg.catalog.walk import Found
from medseg.errors import MedsegError, ReasonCode, ScanError
from medseg.io.archives import ARCHIVE_ENDINGS
from medseg.io.dicom import pixel_digest, same_pixels
from medseg.io.dicom_headers import SliceHeader
from medseg.io.dicom_pool import Result, read_many
from medseg.io.dicom_series import Refusal, Series, arrange

if TYPE_CHECKING:
    from medseg.catalog.series_rules import SeriesRules

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")

UNREAD_FORMATS = {
    ARCHIVE_ENDINGS: "an archive; unpack it to have its scans read",
    UNREAD_ENDINGS: "an image format that is not read; convert it to NIfTI",
}

HEADERS = Kind("dicom", TypeAdapter(tuple[SliceHeader, ...]))
PIXELS = Kind("pixels", TypeAdapter(str))


def index_dicom(found: Sequence[Found], run: IndexRun) -> list[CatalogEntry]:
    """Return the entries of all files that are not NIfTI, DICOM or not.

    Raises
    ------
    ConfigError, OutputError
        If the key of the pseudonyms can't be read or made.
    """
    headers: list[SliceHeader] = []
    entries: list[CatalogEntry] = []
    for path, result in _read(found, run):
        if isinstance(result, ScanError):
            entries.append(CatalogEntry("refused", (path,), reason=result.code, message=str(result)))
        elif result:
            headers += result
        else:
            entries.append(_foreign(path))
    results = arrange(headers, partial(same_pixels, digest=_digests(found, run)), run.policy)
    if results:
        names = _CaseNames(load_key(run.key))
        made = [_entry(result, names) for result in results]
        entries += made if run.rules is None else _chosen(results, made, run.rules)
    return entries


def _read(found: Sequence[Found], run: IndexRun) -> Iterator[tuple[Path, Result]]:
    """Yield the headers of each file, or the error that refuses it; unchanged files are not opened."""
    unknown = []
    for item in found:
        headers = run.memory.recall(item, run.places, HEADERS)
        if headers is None:
            unknown.append(item)
        else:
            yield item.path, tuple(replace(header, path=item.path) for header in headers)
    for item in unknown:
        with suppress(ScanError):  # its file is missed, and refused, when it is read
            run.fetch(item.path)
    for item, result in zip(unknown, read_many([item.path for item in unknown]), strict=True):
        # an error is not remembered: it may pass by itself, such as a missing permission
        if run.memory.keeps(item) and not isinstance(result, ScanError):
            run.memory.keep(item, run.places, HEADERS, tuple(replace(header, path=Path()) for header in result))
        yield item.path, result


def _digests(found: Sequence[Found], run: IndexRun) -> Callable[[Path], bytes]:
    """Return the function that gives the digest of a file's pixels, without opening a file that is unchanged."""
    items = {item.path: item for item in found}

    @cache
    def digest(path: Path) -> bytes:
        known = run.memory.recall(items[path], run.places, PIXELS)
        if known is not None:
            return bytes.fromhex(known)
        try:
            run.fetch(path)
            made = pixel_digest(path)
        except (OSError, MedsegError):  # gone meanwhile: it equals nothing
            return bytes(path)
        run.memory.keep(items[path], run.places, PIXELS, made.hex())
        return made

    return digest


def _chosen(
    results: Sequence[Series | Refusal], made: Sequence[CatalogEntry], rules: SeriesRules
) -> list[CatalogEntry]:
    """Return the entries with one series of each study chosen by rules."""
    entries = {id(result): entry for result, entry in zip(results, made, strict=True)}
    for choice in choose_series((result for result in results if isinstance(result, Series)), rules):
        entry = replace(entries[id(choice.series)], rank=choice.rank, message=choice.why)
        if choice.is_ambiguous:
            entry = replace(entry, status="refused", source=None, reason=ReasonCode.AMBIGUOUS_SERIES)
        elif not choice.is_chosen:
            entry = replace(entry, status="skipped", source=None, reason=ReasonCode.NOT_SELECTED)
        entries[id(choice.series)] = entry
    return list(entries.values())


class _CaseNames:
    """Pseudonyms of series, unique within one catalogue."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.identities: set[str] = set()
        self.used: set[str] = set()

    def case(self, identity: str) -> str:
        copy, whole = 1, identity
        while whole in self.identities:  # series without UIDs, copied to another folder
            copy += 1
            whole = f"{identity}|copy {copy}"
        self.identities.add(whole)
        return unused_pseudonym(self.key, whole, self.used)


def _entry(result: Series | Refusal, names: _CaseNames) -> CatalogEntry:
    case_id = names.case(result.identity) if result.identity else ""
    if isinstance(result, Refusal):
        return CatalogEntry(
            "skipped" if result.skipped else "refused",
            result.files,
            case_id,
            result.code,
            result.message,
            modality=result.modality,
        )
    grid = result.grid
    return CatalogEntry(
        "accepted",
        result.source.files,
        case_id,
        source=result.source,
        shape=grid.shape,
        spacing=grid.spacing,
        axcodes=grid.axcodes,
        modality=result.modality,
        flags=result.flags,
        repairs=result.repairs,
        patient=pseudonym(names.key, result.patient, "patient"),
        study=pseudonym(names.key, f"study|{study_of(result)}", "study"),
    )


def _foreign(path: Path) -> CatalogEntry:
    name = path.name.lower()
    if name.endswith(DICOM_ENDINGS):
        message = "named like DICOM, but without a DICOM header"
        return CatalogEntry("skipped", (path,), reason=ReasonCode.NOT_DICOM, message=message)
    kinds = (kind for endings, kind in UNREAD_FORMATS.items() if name.endswith(endings))
    message = next(kinds, "neither NIfTI nor DICOM")
    return CatalogEntry("skipped", (path,), reason=ReasonCode.NOT_A_SCAN, message=message)
