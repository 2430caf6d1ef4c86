"""The review folder behind a server: scans as Slicer opens them, what the model drew, what people handed in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from medseg.batch.record import CaseRecord
from medseg.catalog.anonymous import without_file_names
from medseg.errors import ScanError
from medseg.io.nifti import read_mask
from medseg.io.nifti_header import ONE_FILE_ENDINGS
from medseg.io.nrrd import claimed_sizes
from medseg.io.scan import case_files, read_case
from medseg.labels import LabelMap
from medseg.provenance import digest_files, timestamp
from medseg.quality.review import ReviewedCase
from medseg.review.corrected import SLICER_ENDING
from medseg.review.entry import EntryWriter, Origin, with_priority
from medseg.review.folder import MANIFEST, Manifest, ReviewCase, ReviewFolder, open_review, write_manifest
from medseg.review.importing import ImportTerms, Taken, import_submission
from medseg.review.submissions import Submission
from medseg.review.versions import Version, mask_path, standing, versions_of
from medseg.serve.numbering import check_size, write_named
from medseg.serve.refusal import UNPROCESSABLE, RequestError
from medseg.serve.studies import Stamp, digest_of, stamp_of
from medseg.volume import Case, Mask, Volume

SPARE_LAYERS = 8
"""Layers that a segmentation may have beside one a label, for segments that a reviewer added."""


@dataclass(frozen=True, slots=True)
class HandIn:
    """A label that a client submits.

    Attributes
    ----------
    file : where it was received; called after its kind.
    names : of the segments of a label map, in the order of its values.
    reviewer : a code; becomes a pseudonym.
    """

    file: Path
    names: Sequence[str]
    reviewer: str


@dataclass(slots=True)
class Desk:
    """Keeps the cases of a review folder; any thread may ask.

    Attributes
    ----------
    folder : the review folder.
    labels : of all its masks.
    key : of the pseudonyms of reviewers and series.
    model : name of the model.
    """

    folder: Path
    labels: LabelMap
    key: bytes
    model: str = ""
    _entries: dict[str, ReviewCase] = field(default_factory=dict)
    _review: ReviewFolder = field(init=False)
    _fresh: dict[str, Stamp | None] = field(default_factory=dict)
    _judged: set[str] = field(default_factory=set)
    _all: Lock = field(default_factory=Lock)
    _each: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))

    def __post_init__(self) -> None:
        if (self.folder / MANIFEST).is_file():
            before = open_review(self.folder)
            before.check_labels(self.labels, "this server")
            self._entries = {case.case: case for case in before.manifest.cases}
        self._review = ReviewFolder(self.folder, self._manifest())

    @property
    def review(self) -> ReviewFolder:
        """The review folder as it is now."""
        return self._review

    def is_judged(self, case: str) -> bool:
        """Whether somebody has handed in a label of the scan as it is."""
        return case in self._judged

    def prediction(self, case: str) -> Path | None:
        """Return the file of what the model drew, as segments with names; None if it has not."""
        entry = self._entries.get(case)
        return self.folder / entry.mask if entry and entry.prediction else None

    def known(self, case: str) -> ReviewCase | None:
        """Return what is known of a case; None if nobody has asked for it yet."""
        return self._entries.get(case)

    def final(self, case: str) -> tuple[Version, Path] | None:
        """Return the version that holds, and its mask; None without one, or where reviewers disagree."""
        entry = self._entries.get(case)
        version = standing(self.review, case).version if entry and self.is_judged(case) else None
        if not entry or not version or not version.is_usable or version.source != entry.source:
            return None
        return version, mask_path(self.review, version)

    def recall(self, cases: Iterable[Case]) -> None:
        """Find the labels of earlier runs; those of a scan that was replaced since count no more."""
        for case in cases:
            if versions_of(self.folder, case.id):
                with suppress(ScanError):  # told when somebody asks for it
                    self.entry(case)

    def entry(self, case: Case) -> ReviewCase:
        """Return the record of a case, whose scan is written if it is not there or has changed.

        Raises
        ------
        ScanError
            If the scan can't be read.
        OutputError
            If it can't be written.
        """
        with self._of(case):
            return self._entry(case)

    def draw(self, case: Case, record: CaseRecord, mask: Path, reviewed: ReviewedCase) -> ReviewCase:
        """Keep what a model drew.

        Parameters
        ----------
        mask : the file of the mask that `record` is of.

        Raises
        ------
        RequestError
            422 if the mask is of another scan than the case has now.
        """
        origin = Origin(record.inputs.source, digest_files([mask]), record.inputs.model)
        with self._of(case):
            entry = self._entry(case)
            if entry.source != origin.source:
                raise RequestError(
                    UNPROCESSABLE, f"{case.id}: the scan changed while it was segmented; segment it again"
                )
            if (entry.prediction, entry.model) != (origin.prediction, origin.model):
                entry = self._writer.redraw(entry, read_mask(mask), origin)
            return self._keep(with_priority(entry, reviewed))

    def submit(self, case: Case, hand_in: HandIn) -> Taken:
        """Take a label as a new version.

        Raises
        ------
        ReviewError
            If it does not fit the case; nothing is written.
        OutputError
            If it can't be written.
        """
        named = hand_in.file
        with self._of(case):  # a prediction that is being redrawn would seem to have been saved over
            entry = self._entry(case)
            if hand_in.file.name.endswith(ONE_FILE_ENDINGS):
                named = hand_in.file.with_name(f"named{SLICER_ENDING}")
                write_named(named, hand_in.file, hand_in.names, entry, self.labels)
            else:
                layers = len(self.labels.labels) + SPARE_LAYERS
                check_size(claimed_sizes(hand_in.file), entry, layers)
            submission = Submission(case.id, "corrected", named, hand_in.reviewer)
            taken = import_submission(self.review, submission, ImportTerms(self.key, {}))
            self._find_labels(entry)
        return taken

    @property
    def _writer(self) -> EntryWriter:
        return EntryWriter(self.folder, self.labels, self.key)

    @contextmanager
    def _of(self, case: Case) -> Iterator[None]:
        with self._all:
            lock = self._each[case.id]
        with lock:
            yield

    def _entry(self, case: Case) -> ReviewCase:
        known, stamp = self._entries.get(case.id), stamp_of(case)
        if known and case.id in self._fresh and stamp in (None, self._fresh[case.id]):
            return known
        source = digest_of(case)
        if not known or known.source != source or not self._is_whole(known):
            volume = _read(case)
            empty = Mask(np.zeros(volume.grid.shape, np.uint8), volume.grid)
            known = self._keep(self._writer.write(case, volume, empty, Origin(source)))
        self._find_labels(known)
        self._fresh[case.id] = stamp
        return known

    def _find_labels(self, entry: ReviewCase) -> None:
        """Note whether there is a label of the scan as it is."""
        if any(version.source == entry.source for version in versions_of(self.folder, entry.case)):
            self._judged.add(entry.case)
        else:
            self._judged.discard(entry.case)

    def _is_whole(self, entry: ReviewCase) -> bool:
        return all((self.folder / path).is_file() for path in (*entry.images, entry.shown, entry.mask))

    def _keep(self, entry: ReviewCase) -> ReviewCase:
        with self._all:
            if self._entries.get(entry.case) != entry:
                self._entries = {**self._entries, entry.case: entry}
                self._review = write_manifest(self.folder, self._manifest())
        return entry

    def _manifest(self) -> Manifest:
        cases = sorted(self._entries.values(), key=lambda case: (-case.priority, case.case))
        return Manifest(exported=timestamp(), model=self.model, labels=self.labels, cases=tuple(cases))


def _read(case: Case) -> Volume:
    try:
        return read_case(case)[0]
    except ScanError as error:
        raise ScanError(error.code, without_file_names(str(error), case_files(case), case.id)) from None
