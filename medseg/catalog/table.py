"""The catalogue as a table: CSV to look at, Parquet to compute with."""

from __future__ import annotations

from pathlib import Path

from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.errors import OutputError
from medseg.io.files import atomic_file
from medseg.io.tables import OWNER_ONLY, harmless
from medseg.text import printable

COLUMNS = {
    "case_id": str, "status": str, "reason": str, "message": str, "path": str, "files": int, "modality": str,
    "size_x": int, "size_y": int, "size_z": int, "spacing_x_mm": float, "spacing_y_mm": float,
    "spacing_z_mm": float, "axcodes": str, "flags": str, "repairs": str, "patient": str,
    "study": str, "rank": int, "digest": str,
}  # fmt: skip


def write_catalog(catalog: Catalog, path: Path) -> None:
    """Write one row an entry, as CSV or Parquet by the ending of `path`.

    In CSV, text that a spreadsheet would run as a formula gets an apostrophe in front.

    Raises
    ------
    OutputError
        If the ending is another one, or the file can't be written.
    """
    import polars  # 0.1 s that runs without a table need not pay

    ending = check_table(path)
    rows: list[dict[str, object]] = [_row(entry) for entry in catalog.entries]
    if ending == ".csv":
        rows = [{name: harmless(value) for name, value in row.items()} for row in rows]
    types = {str: polars.String, int: polars.Int64, float: polars.Float64}
    frame = polars.DataFrame(rows, schema={name: types[kind] for name, kind in COLUMNS.items()}, orient="row")
    with atomic_file(path) as temporary:
        temporary.touch(OWNER_ONLY)  # it holds paths, which may name patients
        if ending == ".csv":
            frame.write_csv(temporary)
        else:
            frame.write_parquet(temporary)


def check_table(path: Path) -> str:
    """Return the ending of a catalogue's file; raises `OutputError` for one that is not written."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise OutputError(f"a catalogue is written as .csv or .parquet, not {path.name!r}")
    return ending


def _row(entry: CatalogEntry) -> dict[str, object]:
    shape, spacing = entry.shape or (None,) * 3, entry.spacing or (None,) * 3
    reason = str(entry.reason) if entry.reason else ""
    flags = " ".join(map(str, entry.flags))
    repairs = "; ".join(f"{repair.code}: {repair.what}" for repair in entry.repairs)
    texts = (entry.case_id, entry.status, reason, entry.message, printable(str(entry.path)))
    values = (*texts, len(entry.files), entry.modality, *shape, *spacing, entry.axcodes, flags, repairs)
    series = (entry.patient, entry.study, entry.rank or None)
    return dict(zip(COLUMNS, (*values, *series, entry.digest), strict=True))
