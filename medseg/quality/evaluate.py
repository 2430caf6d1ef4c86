"""Compare folders of predictions with folders of true masks; nothing is left out in silence.

A prediction that is absent, unreadable or on another grid is scored as an empty mask, so that its
structures count as missed, and is listed among the problems. A true mask that can't be read can't be
scored; its case is listed, too. Predictions without a true mask are only named.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg.batch.record import read_record
from medseg.batch.summary import DONE
from medseg.catalog.identity import safe_ids
from medseg.catalog.listing import case_name, stem, visible
from medseg.errors import ConfigError, DatasetError, LabelError, OutputError, ScanError
from medseg.io.nifti import read_mask
from medseg.io.nifti_header import ONE_FILE_ENDINGS, split_ending
from medseg.labels import LabelMap
from medseg.quality.metrics import DEFAULT_TOLERANCE_MM, StructureScore, evaluate_case
from medseg.quality.review import check_one_run, read_rows, read_run
from medseg.quality.summary import TargetSummary, mean_over_targets, summarise
from medseg.text import shown
from medseg.volume import Mask

THREADS = 2
"""Cases compared at the same time; decompression and distances release the interpreter lock."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One case to compare; `prediction` is None where the model gave nothing."""

    case: str
    prediction: Path | None
    truth: Path


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes
    ----------
    scores : one a case and target, by case id.
    problems : (case, sentence) of each case that could not be compared as it should.
    unmatched : case ids of predictions without a true mask.
    not_run : case ids of true masks whose scans were not given to the run that predicted.
    labels : the label map that named the targets.
    tolerance_mm : of the NSD.
    """

    scores: tuple[StructureScore, ...]
    problems: tuple[tuple[str, str], ...]
    unmatched: tuple[str, ...]
    not_run: tuple[str, ...]
    labels: LabelMap
    tolerance_mm: float

    @property
    def targets(self) -> tuple[TargetSummary, ...]:
        """One summary a target."""
        return summarise(self.scores)

    @property
    def mean_dice(self) -> float | None:
        """Mean over targets of the mean Dice over cases."""
        return mean_over_targets(self.targets, "dice")

    @property
    def mean_iou(self) -> float | None:
        """Mean over targets of the mean IoU over cases (mIoU)."""
        return mean_over_targets(self.targets, "iou")

    @property
    def cases(self) -> tuple[str, ...]:
        """The ids of the scored cases."""
        return tuple(dict.fromkeys(score.case for score in self.scores))


def evaluate_folder(
    predictions: Path,
    truths: Path,
    labels: LabelMap | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> Evaluation:
    """Compare every true mask of a folder with the prediction of the same case.

    A folder of ``medseg segment`` knows which scans it was given: those that it could not segment count as
    missed, also where an earlier run left a mask, and true masks of others are only named. In a plain folder
    every true mask counts.

    Parameters
    ----------
    predictions : a folder that ``medseg segment`` wrote, or one with a NIfTI mask a case.
    truths : a folder with a NIfTI mask a case, called after it, or after the file or folder of its scan; or a dataset
        folder with ``labels/`` or ``labelsTr/``.
    labels : meaning of the values; default: every value found in the masks is a target.
    tolerance_mm : surface distance up to which outlines count as equal in the NSD.

    Raises
    ------
    DatasetError
        If a folder is missing, there are no true masks, or no case of both folders matches.
    ConfigError
        If the tolerance is no finite number from 0 on.
    OutputError
        If the folder holds results of several runs, because the last one has not ended, or its ``cases.csv`` can't be
        read.
    """
    statuses = run_statuses(predictions)
    has_masks = not statuses or not set(DONE).isdisjoint(statuses.values())
    predicted_masks = find_masks(predictions) if has_masks else {}
    true_masks = _by_case(find_masks(truths), statuses.keys() | predicted_masks.keys(), predictions)
    if statuses:
        predicted_masks = {case: path for case, path in predicted_masks.items() if statuses.get(case) in DONE}
        _check_one_run(predictions, predicted_masks)
    if not set(true_masks) & (set(statuses) or set(predicted_masks)):
        raise DatasetError(
            f"no mask in {predictions} has the name of one in {truths} ({shown(predicted_masks or statuses)} against "
            f"{shown(true_masks)}); name each true mask after its case, or after the file or folder of its scan"
        )
    given = set(statuses) or set(true_masks)
    pairs = [Pair(case, predicted_masks.get(case), path) for case, path in true_masks.items() if case in given]
    evaluation = evaluate_pairs(pairs, labels, tolerance_mm)
    unmatched = tuple(sorted(set(predicted_masks) - set(true_masks)))
    return replace(evaluation, unmatched=unmatched, not_run=tuple(sorted(set(true_masks) - given)))


def evaluate_pairs(
    pairs: Sequence[Pair],
    labels: LabelMap | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> Evaluation:
    """Compare an explicit list of predictions and true masks; see `evaluate_folder`."""
    if not 0 <= tolerance_mm < np.inf:
        raise ConfigError(f"the NSD's tolerance must be a number of mm from 0 on, not {tolerance_mm:g}")
    with ThreadPoolExecutor(THREADS) as pool:
        known = labels or _found_labels(list(pool.map(_values, pairs)))
        outcomes = list(pool.map(lambda pair: _compare(pair, known, tolerance_mm), pairs))
    return Evaluation(
        scores=tuple(score for scores, _ in outcomes for score in scores),
        problems=tuple((pair.case, text) for pair, (_, text) in zip(pairs, outcomes, strict=True) if text),
        unmatched=(),
        not_run=(),
        labels=known,
        tolerance_mm=tolerance_mm,
    )


def run_statuses(predictions: Path) -> dict[str, str]:
    """Return how each case that ``medseg segment`` was given ended; empty for a plain folder of masks."""
    if not (predictions / "cases").is_dir() or not (predictions / "cases.csv").is_file():
        return {}
    return {row["case"]: row["status"] for row in read_rows(predictions, {"case", "status"})}


def _check_one_run(predictions: Path, cases: Iterable[str]) -> None:
    if (predictions / "run.json").is_file():
        records = (read_record(predictions / "cases" / case) for case in cases)
        check_one_run(predictions, read_run(predictions), [record for record in records if record])


def find_masks(folder: Path) -> dict[str, Path]:
    """Return the masks of a folder by case id, ordered by id.

    Understood are ``cases/<case>/mask.nii.gz`` (what ``medseg segment`` writes), ``labels/`` or
    ``labelsTr/`` inside the folder, and masks directly in it.

    Raises
    ------
    DatasetError
        If the folder is missing, holds no mask, or two masks of one case.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; give one that holds a mask a case")
    segmented = sorted((folder / "cases").glob("[!.]*/mask.nii.gz"))  # hidden ones were being written
    if segmented:
        return {path.parent.name: path for path in segmented}
    inner = next((folder / name for name in ("labels", "labelsTr") if (folder / name).is_dir()), folder)
    found: dict[str, Path] = {}
    for path in visible(inner):
        case, ending = split_ending(path.name)
        if ending not in ONE_FILE_ENDINGS:
            continue
        if case in found:
            raise DatasetError(f"{inner} holds two masks of case {case}: {found[case].name} and {path.name}; keep one")
        found[case] = path
    if not found:
        raise DatasetError(f"{inner} holds no mask; expected are NIfTI files such as <case>.nii.gz")
    return found


def _by_case(true_masks: dict[str, Path], known: Set[str], predictions: Path) -> dict[str, Path]:
    """Return true masks by their cases' ids, where they are called after the cases, or after the scans.

    The case of a scan "liver 1.nii.gz" is liver_1, that of a DICOM series is a pseudonym, which ``sources.csv``
    explains; nnU-Net's masks lack the channel number of their scans. A mask that may be of several cases, or is one of
    several for a case, stays what it is called.
    """
    ids, cases = safe_ids(true_masks), _cases_of_scans(predictions)
    found = {name: {name, ids[name]} & known or cases.get(name, set()) for name in true_masks}
    claims = {name: min(choice) if len(choice) == 1 else name for name, choice in found.items()}
    taken = Counter(claims.values())
    named = {claims[name] if taken[claims[name]] == 1 else name: path for name, path in true_masks.items()}
    return dict(sorted(named.items()))


def _cases_of_scans(predictions: Path) -> dict[str, set[str]]:
    """Return the cases of the scans that each name leads to, of a file or a folder; nothing if no run says so."""
    cases: dict[str, set[str]] = defaultdict(set)
    with suppress(OutputError):  # only its owner may read it
        for row in read_rows(predictions, {"case", "source"}, "sources.csv"):
            path = Path(row["source"])
            for name in (*path.parent.parts, stem(path), case_name(path)):
                cases[name].add(row["case"])
    return cases


def _compare(pair: Pair, labels: LabelMap, tolerance_mm: float) -> tuple[list[StructureScore], str]:
    """Return the scores of a case and, if it could not be compared as it should, why."""
    try:
        truth = read_mask(pair.truth)
        empty = Mask(np.zeros_like(truth.array), truth.grid)
        missed = evaluate_case(empty, truth, labels, tolerance_mm, case=pair.case)
    except (ScanError, LabelError) as error:
        return [], f"not scored: {error}"
    if pair.prediction is None:
        return missed, "there is no prediction: its structures count as missed"
    try:
        prediction = read_mask(pair.prediction)
        return evaluate_case(prediction, truth, labels, tolerance_mm, case=pair.case), ""
    except (ScanError, LabelError) as error:
        return missed, f"the prediction can't be used, its structures count as missed: {error}"


def _values(pair: Pair) -> set[int]:
    """Return the values in both masks; what can't be read has none and is reported when compared."""
    values: set[int] = set()
    for path in (pair.prediction, pair.truth):
        try:
            values |= set(np.unique(read_mask(path).array).tolist()) if path else set()
        except (ScanError, LabelError):
            continue
    return values


def _found_labels(values: Sequence[set[int]]) -> LabelMap:
    found = set().union(*values) - {0}
    if not found:
        raise DatasetError("all masks are empty: there is nothing to compare; give a label map to count them as such")
    return LabelMap.from_values(found)
