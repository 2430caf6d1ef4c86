"""Make a review folder of a batch's results: the doubtful cases first, complete, to be taken to a reviewer.

Scans are written anew as NIfTI, DICOM series included, by what `medseg convert` uses: so the folder opens on any
computer, no header text of theirs is in it, and Slicer and training read the very same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from medseg.batch.intake import open_catalog
from medseg.batch.listing import list_cases
from medseg.batch.places import check_places
from medseg.batch.record import MASK, CaseRecord
from medseg.catalog.anonymous import without_names
from medseg.catalog.entries import Catalog
from medseg.catalog.identity import load_key
from medseg.config import BatchConfig
from medseg.errors import LabelError, ScanError
from medseg.io.files import atomic_file
from medseg.io.nifti import read_mask
from medseg.io.scan import case_files, read_case
from medseg.provenance import digest_files, timestamp
from medseg.quality.review import Review, ReviewedCase, review_results
from medseg.review.earlier import Earlier
from medseg.review.entry import EntryWriter, Origin, with_priority
from medseg.review.folder import CORRECTED, WORKLIST, Manifest, ReviewCase, ReviewFolder, write_manifest
from medseg.review.refusal import Refusal, ReviewError
from medseg.review.worklist import Row, entered_verdicts, write_worklist
from medseg.text import printable
from medseg.volume import Case

SCRIPTS = {"in_slicer.py": "review_in_slicer.py", "session.py": "review_session.py"}
"""Files of this package that run in Slicer, and what they are called in the review folder."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cases are exported: those of at least this priority, and of these at most so many, the first.

    Attributes
    ----------
    without : ids of cases that nobody has to look at.
    """

    priority: float = 0.0
    first: int | None = None
    without: frozenset[str] = frozenset()

    def of(self, review: Review) -> tuple[ReviewedCase, ...]:
        """Return the cases, the highest priority first."""
        wanted = (case for case in review.cases if case.record.case not in self.without)
        return tuple(case for case in wanted if case.priority >= self.priority)[: self.first]


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was exported.

    Attributes
    ----------
    cases : ids of the cases that the results gave, in order.
    problems : cases that could not be exported, and why.
    """

    review: ReviewFolder
    cases: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0: all exported; 1: some not; 3: none."""
        if not self.cases:
            return 3
        return 1 if self.problems else 0


def export_review(
    results: Path,
    scans: Path,
    folder: Path,
    selection: Selection | None = None,
    *,
    config: BatchConfig | None = None,
) -> ExportSummary:
    """Write a review folder.

    The same command again adds what is new, and refreshes the order and, from another `scans`, what is missing.
    Cases of an earlier export that anybody has worked on stay.

    Parameters
    ----------
    results : folder that `medseg segment` wrote.
    scans : where the scans are now; recognised by their contents.
    folder : the review folder; made if needed.
    selection : which cases; default: all.
    config : key file and ingest policies, those that the results were made with.

    Raises
    ------
    OutputError
        If `results` is no results folder, or `folder` lies among the scans or can't be written.
    ReviewError
        If there is an entry in its worklist that would be lost when that is written anew.
    DatasetError
        If it holds masks of other labels.
    ConfigError
        If `scans` is missing.
    """
    config = config or BatchConfig()
    check_places(scans, folder, what="review folder")
    review = review_results(results)
    chosen = (selection or Selection()).of(review)
    entered = entered_verdicts(folder / WORKLIST)
    key = load_key(config.key)
    earlier = Earlier.of(folder, key)
    _check_known(entered, earlier)
    if earlier.review:
        earlier.review.check_labels(review.labels, "the results")
    exporter = _Exporter(review, folder, key, earlier)
    exported, problems = list[ReviewCase](), list[tuple[str, str]]()
    with open_catalog(scans, folder, config) as catalog:
        sources = _named_scans(catalog, [case.record for case in chosen], config.key)
        for case in chosen:
            name = case.record.case
            try:
                exported.append(exporter.export(case, sources.get(name)))
            except (ScanError, LabelError, ReviewError) as error:
                problems.append((name, printable(str(error))))
    manifest = exporter.manifest(exported)
    _write_scripts(folder)
    (folder / CORRECTED).mkdir(exist_ok=True)
    anew = {case.case for case in manifest.cases if earlier.is_other(case)}
    write_worklist(folder / WORKLIST, manifest, {name: row for name, row in entered.items() if name not in anew})
    return ExportSummary(write_manifest(folder, manifest), tuple(case.case for case in exported), tuple(problems))


@dataclass(frozen=True, slots=True)
class _Exporter:
    """Writes scan and mask of single cases into a review folder.

    Attributes
    ----------
    earlier : what the folder holds already.
    """

    review: Review
    folder: Path
    key: bytes
    earlier: Earlier

    def export(self, reviewed: ReviewedCase, scan: Case | None) -> ReviewCase:
        """Write a case unless it is there; raises `ReviewError` or `ScanError` saying why that can't be done."""
        record = reviewed.record
        before = self.earlier.cases.get(record.case)
        is_same = before and (before.source, before.prediction) == (record.inputs.source, record.outputs.get(MASK, ""))
        if before and is_same and self._is_whole(before):
            return with_priority(before, reviewed)
        if before and not is_same:
            self.earlier.check_finished(record.case)
        return with_priority(self._write(record, scan), reviewed)

    def manifest(self, exported: list[ReviewCase]) -> Manifest:
        """Return the record of the export: these cases, and earlier ones that anybody has worked on."""
        names = {case.case for case in exported}
        others = (case for case in self.earlier.cases.values() if case.case not in names)
        kept = [case for case in others if self.earlier.is_worked_on(case.case)]
        return Manifest(
            exported=timestamp(),
            model=str((self.review.run.get("model") or {}).get("name", "")),
            labels=self.review.labels,
            cases=tuple(sorted([*exported, *kept], key=lambda case: (-case.priority, case.case))),
        )

    def _is_whole(self, case: ReviewCase) -> bool:
        is_same = _digest(self.folder / case.mask) == case.mask_digest
        return is_same and all((self.folder / path).is_file() for path in (*case.images, case.shown))

    def _write(self, record: CaseRecord, scan: Case | None) -> ReviewCase:
        source = self._checked(record, scan)
        volume, _ = read_case(source)
        original = self.review.folder / "cases" / record.case / MASK
        if _digest(original) != record.outputs.get(MASK):
            raise ReviewError(
                Refusal.CHANGED_PREDICTION, f"{record.case}: {MASK} is not what its record says; segment again"
            )
        mask = read_mask(original)
        if not mask.grid.matches(volume.grid):
            raise ReviewError(
                Refusal.CHANGED_SCAN,
                f"{record.case}: its scan is read otherwise than when it was segmented; give the same --policy",
            )
        origin = Origin(record.inputs.source, record.outputs[MASK], record.inputs.model)
        return EntryWriter(self.folder, self.review.labels, self.key).write(source, volume, mask, origin)

    def _checked(self, record: CaseRecord, scan: Case | None) -> Case:
        """Return the case's scan if it is the one that was segmented."""
        if scan is None:
            raise ReviewError(
                Refusal.NO_SCAN,
                f"{record.case}: its scan is not in that folder; give the folder of scans that was segmented, and the "
                "same key file",
            )
        if _digest(*case_files(scan)) != record.inputs.source:
            raise ReviewError(
                Refusal.CHANGED_SCAN, f"{record.case}: its scan has changed since it was segmented; segment again"
            )
        return scan


def _write_scripts(folder: Path) -> None:
    for name, target in SCRIPTS.items():
        with atomic_file(folder / target) as temporary:
            temporary.write_bytes(files("medseg.review").joinpath(name).read_bytes())


def _check_known(entered: Mapping[str, Sequence[Row]], earlier: Earlier) -> None:
    """Refuse verdicts on cases that the folder doesn't have: writing the worklist anew would lose them."""
    strange = next((rows[0] for case, rows in entered.items() if case not in earlier.cases), None)
    if strange and earlier.review:
        raise ReviewError(
            Refusal.WORKLIST,
            f"{WORKLIST}, line {strange.line}: the review has no case {printable(strange.case)!r}; repair it before "
            "the worklist is written anew",
        )


def _digest(*paths: Path) -> str:
    """Return the digest of files; "" if one can't be read."""
    try:
        return digest_files(paths)
    except OSError:
        return ""


def _named_scans(catalog: Catalog, records: list[CaseRecord], key: Path | None) -> dict[str, Case]:
    """Return the scans of a catalogue by the names that a run gives them, by files and by pseudonyms."""
    channels = max((len(record.features.channels) for record in records if record.features), default=1)
    found = {case.id: case for case in list_cases(catalog, channels).cases}
    if any(record.case not in found for record in records):
        hidden = list_cases(without_names(catalog, key), channels)
        found = {**{case.id: case for case in hidden.cases}, **found}
    return found
