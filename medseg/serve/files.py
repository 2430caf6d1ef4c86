"""Masks as files that clients can open, and files that they hand in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from medseg.io.nifti import write_mask
from medseg.io.nifti_header import ONE_FILE_ENDINGS
from medseg.io.slicer import write_seg_nrrd
from medseg.labels import LabelMap
from medseg.review.corrected import SLICER_ENDING
from medseg.review.folder import CASE_TAG, ReviewCase
from medseg.serve.numbering import label_numbers, numbered
from medseg.serve.refusal import UNPROCESSABLE, RequestError
from medseg.volume import Mask, Source

NRRD_ENDING = ".nrrd"
TAKEN = (SLICER_ENDING, *ONE_FILE_ENDINGS)
"""Endings of files that may be handed in."""

OFFERED = (SLICER_ENDING, NRRD_ENDING, *ONE_FILE_ENDINGS)
DEFAULT_ENDING = ".nii.gz"


@contextmanager
def working_folder(incoming: Path) -> Iterator[Path]:
    """Give a folder for the files of one request; it is gone afterwards."""
    incoming.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=incoming) as folder:
        yield Path(folder)


@dataclass(frozen=True, slots=True)
class Rendering:
    """Makes files of masks.

    Attributes
    ----------
    review : the review folder, which has the scans.
    labels : of the masks.
    incoming : folder for the files meanwhile.
    """

    review: Path
    labels: LabelMap
    incoming: Path

    def file(self, mask: Mask, case: ReviewCase, ending: str) -> bytes:
        """Return a mask as the file that a client asks for.

        Parameters
        ----------
        ending : .seg.nrrd: segments with names, and the model's own values; .nrrd, .nii.gz or .nii: numbered as
            `medseg.serve.numbering` says.

        Raises
        ------
        RequestError
            422 for another ending.
        """
        with working_folder(self.incoming) as folder:
            path = folder / f"mask{ending if ending in OFFERED else ''}"
            if ending == SLICER_ENDING:
                write_seg_nrrd(path, mask, self.labels, {CASE_TAG: case.case})
            elif ending == NRRD_ENDING:
                write_seg_nrrd(path, numbered(mask, self.labels), _renumbered(self.labels))
            elif ending in ONE_FILE_ENDINGS:
                scan = Source("nifti", (self.review / case.images[0],))
                write_mask(path, numbered(mask, self.labels), scan, _renumbered(self.labels))
            else:
                raise RequestError(UNPROCESSABLE, f"result_extension is one of {', '.join(OFFERED)}")
            return path.read_bytes()


def received(stream: BinaryIO, name: str, folder: Path) -> Path:
    """Write an upload into a folder, under a name of ours with the ending of the client's.

    Raises
    ------
    RequestError
        422 if the ending is none that is taken.
    """
    lowered = name.lower()
    ending = next((ending for ending in TAKEN if lowered.endswith(ending)), "")
    if not ending:
        raise RequestError(
            UNPROCESSABLE,
            f"the label's file name ends in none of {', '.join(TAKEN)}; set the file extension in Slicer's settings",
        )
    path = folder / f"upload{ending}"
    with path.open("wb") as target:
        shutil.copyfileobj(stream, target)
    return path


def _renumbered(labels: LabelMap) -> LabelMap:
    numbers = label_numbers(labels)
    return LabelMap(labels=tuple(label.model_copy(update={"value": numbers[label.name]}) for label in labels.labels))
