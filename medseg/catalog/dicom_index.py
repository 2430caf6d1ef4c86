"""The DICOM part of the catalogue: series out of any number of files in any folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.catalog.entries import CatalogEntry
from medseg.catalog.identity import PSEUDONYM_DIGITS, load_key, pseudonym
from medseg.errors import ReasonCode, ScanError
from medseg.io.dicom import same_pixels
from medseg.io.dicom_headers import SliceHeader
from medseg.io.dicom_pool import read_many
from medseg.io.dicom_series import Refusal, Series, arrange

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")

UNREAD_FORMATS = {
    (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"): "an archive; unpack it to have its scans read",
    (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh"): "an image format that is not read; convert it to NIfTI",
}


def index_dicom(paths: Sequence[Path], key_file: Path | None) -> list[CatalogEntry]:
    """Return the entries of all files that are not NIfTI, DICOM or not.

    Raises
    ------
    ConfigError, OutputError
        If the key of the pseudonyms can't be read or made.
    """
    headers: list[SliceHeader] = []
    entries: list[CatalogEntry] = []
    for path, result in zip(paths, read_many(paths), strict=True):
        if isinstance(result, ScanError):
            entries.append(CatalogEntry("refused", (path,), reason=result.code, message=str(result)))
        elif result:
            headers += result
        else:
            entries.append(_foreign(path))
    results = arrange(headers, same_pixels)
    if results:
        names = _CaseNames(load_key(key_file))
        entries += [_entry(result, names) for result in results]
    return entries


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
        digits = PSEUDONYM_DIGITS
        while (name := pseudonym(self.key, whole, "case", digits)) in self.used:
            digits += 4
        self.used.add(name)
        return name


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
        patient=pseudonym(names.key, result.patient, "patient"),
    )


def _foreign(path: Path) -> CatalogEntry:
    name = path.name.lower()
    if name.endswith(DICOM_ENDINGS):
        message = "named like DICOM, but without a DICOM header"
        return CatalogEntry("skipped", (path,), reason=ReasonCode.NOT_DICOM, message=message)
    kinds = (kind for endings, kind in UNREAD_FORMATS.items() if name.endswith(endings))
    message = next(kinds, "neither NIfTI nor DICOM")
    return CatalogEntry("skipped", (path,), reason=ReasonCode.NOT_A_SCAN, message=message)
