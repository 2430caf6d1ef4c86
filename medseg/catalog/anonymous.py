"""Take the names of files out of a catalogue: NIfTI scans get keyed pseudonyms too, as DICOM series have.

A pseudonym is the keyed hash of the file's path below the indexed folder. So it is the same in every run with
the same key and tree, known before anything but headers is read, and two copies of one scan stay two cases.
A file that is renamed, or indexed from another folder, becomes another case; one that is rewritten does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from medseg.catalog.entries import Catalog, CatalogEntry, Places
from medseg.catalog.identity import load_key, unused_pseudonym
from medseg.io.nifti_header import NIFTI_ENDINGS
from medseg.text import printable

PSEUDONYM = re.compile(r"case-[0-9a-f]+")
"""How pseudonyms look, and no name that a file gave (`identity.RESERVED`)."""


def without_names(catalog: Catalog, key: Path | None = None) -> Catalog:
    """Return a catalogue in which no case id and no message holds the name of a file or folder.

    Parameters
    ----------
    key : key file of the pseudonyms, made if missing; default: `identity.default_key_path`.

    Raises
    ------
    ConfigError, OutputError
        If the key can't be read or made.
    """
    secret = load_key(key)
    places = catalog.places
    used = {entry.case_id for entry in catalog.entries if PSEUDONYM.fullmatch(entry.case_id)}
    return replace(catalog, entries=tuple(_without_names(entry, places, secret, used) for entry in catalog.entries))


def without_file_names(message: str, files: Iterable[Path], case: str) -> str:
    """Return a message with the case's id in place of its NIfTI files' names, also where those were made printable.

    No message names a DICOM file, and their names may be numbers, which messages hold for other reasons.

    Examples
    --------
    >>> without_file_names("anna.nii ends before its last voxel", [Path("x/anna.nii")], "case-1f")
    'case-1f ends before its last voxel'
    """
    niftis = [path.name for path in files if path.name.lower().endswith(NIFTI_ENDINGS)]
    names = {name for own in niftis for name in (own, printable(own))}
    for name in sorted(names, key=len, reverse=True):  # the longest first: one name may hold another
        message = message.replace(name, case or "a file")
    return message


def _without_names(entry: CatalogEntry, places: Places, key: bytes, used: set[str]) -> CatalogEntry:
    name = entry.case_id
    if name and not PSEUDONYM.fullmatch(name):
        place = os.fsencode(places.of(min(entry.files))).decode("latin-1")  # any bytes may be a name
        name = unused_pseudonym(key, f"file|{place}", used)
    patient = name if entry.patient == entry.case_id else entry.patient
    message = without_file_names(entry.message, entry.files, name)
    return replace(entry, case_id=name, patient=patient, message=message)
