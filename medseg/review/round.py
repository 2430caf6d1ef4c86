"""One round of learning from corrections: learn, compare, segment again, and ask for the next.

::

    OUTPUT/dataset/       the labelled cases of the dataset and the reviewed ones: what the next round starts from
          /fine_tuning/   the training, and the decision: `medseg.training.fine_tuning`
          /results/       the scans segmented by the promoted model
          /review/        the next review folder, without the cases that are labelled by now

A round is about the verdicts that hold when it begins. A stopped one goes on with the same call.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.batch.places import check_places
from medseg.batch.segment_folder import segment_folder
from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.sources import scan_digest
from medseg.config import DatasetConfig, ExperimentConfig, SegmentConfig
from medseg.errors import DatasetError, OutputError
from medseg.io.files import write_text
from medseg.networks.model import load_model, model_digest
from medseg.provenance import digest_files, digest_json
from medseg.quality.report import write_report
from medseg.review.dataset import replaced_by, reviewed_cases, twins_of, write_joined
from medseg.review.export import ExportSummary, Selection, export_review
from medseg.review.folder import DATASET, SCANS, ReviewFolder, open_review
from medseg.review.versions import standing
from medseg.text import shown
from medseg.training.fine_tuning import FineTuned, fine_tune
from medseg.training.processes import check_alone
from medseg.training.run import RunOptions
from medseg.volume import Case

if TYPE_CHECKING:
    from medseg.batch.run import Watcher
    from medseg.batch.summary import RunSummary

FINE_TUNING, RESULTS, REVIEW = "fine_tuning", "results", "review"
PICTURE = "medseg.quality.viewer:draw_case"


@dataclass(frozen=True, slots=True)
class RoundOptions:
    """How a round is carried out.

    Attributes
    ----------
    training : device, time and cache of the fine-tuning.
    scans : what is segmented again; default: the scans in the review folder.
    segment : device, workers, key file and ingest policies of the segmentation, and of the export after it.
    selection : which of the remaining cases are exported; default: all.
    watcher : told of each case as it is segmented.
    """

    training: RunOptions = field(default_factory=RunOptions)
    scans: Path | None = None
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    selection: Selection = field(default_factory=Selection)
    watcher: Watcher | None = None


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a review folder has to teach.

    Attributes
    ----------
    new : reviewed cases with the masks that hold.
    known : ids of reviewed cases that the dataset has a mask of, which stays.
    in_conflict : ids of cases on which reviewers disagree: they wait for a person's choice.
    replaced : ids of the dataset's unlabelled cases whose place the new ones take.
    """

    new: tuple[Case, ...]
    known: tuple[str, ...]
    in_conflict: tuple[str, ...]
    replaced: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What came of a round.

    Attributes
    ----------
    model : the model to use from now on.
    fine_tuned : the decision, with every score; None: time ran out, and the same call goes on.
    segmented, exported : the remaining cases and the next review folder; None unless a model was promoted.
    """

    model: Path
    corrections: Corrections
    fine_tuned: FineTuned | None = None
    segmented: RunSummary | None = None
    exported: ExportSummary | None = None


def review_round(
    review: Path, config: ExperimentConfig, model: Path, output: Path, options: RoundOptions | None = None
) -> RoundResult:
    """Learn from the corrections of a review folder, and prepare the next one.

    What trains and compares, without anything about folders of scans, is `medseg.training.fine_tuning.fine_tune`.

    Parameters
    ----------
    review : review folder whose corrections were imported.
    config : the fine-tuning (`medseg.training.fine_tuning.for_fine_tuning`); `dataset` is the one that the model came
        from, or that of the round before (``OUTPUT/dataset``).
    model : the model of the review, or a later one.
    output : folder of this round; made if missing.

    Raises
    ------
    DatasetError
        If nothing is reviewed yet, labels differ, a reviewed case is held out, or nothing can be held out.
    OutputError
        If `output` holds a round of other corrections, or can't be written.
    MedsegError
        For every other problem of configuration, data, model or disk that a user can mend.
    """
    check_alone("a review round is done")
    options, folder = options or RoundOptions(), open_review(review)
    scans = options.scans or review / SCANS
    check_places(scans, output)
    original = read_dataset(config.dataset)
    folder.check_labels(original.labels, "the dataset")
    folder.check_labels(load_model(model).labels, "the model")
    corrections = gather_corrections(folder, original)
    _begin(output, config, model, original, corrections)
    write_joined(output / DATASET, original, corrections.new, corrections.replaced)
    joined = config.model_copy(update={"dataset": _of_round(config.dataset, output)})
    new = [case.id for case in corrections.new]
    outcome = fine_tune(joined, model, output / FINE_TUNING, new, options.training)
    if outcome is None or not outcome.promoted:
        return RoundResult(model, corrections, outcome)
    promoted = output / FINE_TUNING / outcome.model
    labelled = frozenset((*original.train, *original.validation, *original.test, *new))
    segmented = segment_folder(
        scans, promoted, output / RESULTS, options.segment, picture=PICTURE, watcher=options.watcher
    )
    reviewed = reviewed_cases(folder)
    sources = {folder.case(case.id).source for case in reviewed} | {scan_digest(case) for case in reviewed}
    settled = labelled | _seen_again(segmented, sources)
    return RoundResult(promoted, corrections, outcome, segmented, _export(scans, output, settled, options))


def _seen_again(segmented: RunSummary, sources: Container[str]) -> frozenset[str]:
    """Return the cases whose scans were reviewed, whatever they are called now."""
    records = [result.record for result in segmented.results if result.record]
    return frozenset(record.case for record in records if record.inputs.source in sources)


def _export(scans: Path, output: Path, settled: frozenset[str], options: RoundOptions) -> ExportSummary:
    """Write the report of all scans, and the review folder of those that nobody has labelled."""
    write_report(output / RESULTS)
    selection = replace(options.selection, without=options.selection.without | settled)
    return export_review(output / RESULTS, scans, output / REVIEW, selection, config=options.segment)


def gather_corrections(review: ReviewFolder, original: Dataset) -> Corrections:
    """Return what a review adds to a dataset.

    Raises
    ------
    DatasetError
        If nothing is accepted or corrected, all of it is labelled already, or any of it is held out.
    """
    reviewed = reviewed_cases(review)
    conflicts = tuple(case.case for case in review.manifest.cases if standing(review, case.case).rivals)
    if not reviewed:
        raise DatasetError(
            f"{review.path}: none of its {len(review.manifest.cases)} cases is accepted or corrected yet "
            f"({len(conflicts)} in conflict); review them in 3D Slicer, then run medseg review import"
        )
    twins = twins_of(reviewed, original.cases, review)
    leaks = _among(twins, (*original.validation, *original.test))
    if leaks:
        raise DatasetError(
            f"{len(leaks)} reviewed cases are held out for measuring: {shown(sorted(leaks))}; a model that learns from "
            "them can't be measured on them: take them off the lists validation and test, or reject them in the review"
        )
    known = _among(twins, original.train)
    new = tuple(_with_patient(case, original, twins[case.id]) for case in reviewed if case.id not in known)
    if not new:
        raise DatasetError(f"all {len(known)} reviewed cases are labelled in the dataset already: {shown(known)}")
    return Corrections(new, tuple(known), conflicts, replaced_by(new, twins))


def _among(twins: Mapping[str, frozenset[str]], ids: Iterable[str]) -> list[str]:
    """Return the reviewed cases with a twin among these."""
    wanted = frozenset(ids)
    return [case for case, same in twins.items() if same & wanted]


def _with_patient(case: Case, original: Dataset, twins: Collection[str]) -> Case:
    """Return a case with the patient that the dataset knows, if it does."""
    known = sorted({one.patient for one in original.select(twins)} - {"", case.id})
    return replace(case, patient=known[0]) if known else case


def _of_round(config: DatasetConfig, output: Path) -> DatasetConfig:
    """Return the joined dataset; its table holds the lists and the labels."""
    return DatasetConfig(
        folder=output / DATASET, modality=config.modality, patients=config.patients, ingest=config.ingest
    )


def _begin(output: Path, config: ExperimentConfig, model: Path, original: Dataset, corrections: Corrections) -> None:
    """Note what a round follows from; refuse to go on with another one once its training has begun."""
    masks = {case.id: digest_files([case.mask]) for case in corrections.new if case.mask}
    follows_from = digest_json(
        {
            "config": config.model_dump(mode="json", exclude={"name", "dataset"}),
            "model": model_digest(model),
            "corrections": masks,
            "train": original.train,
            "held out": [original.validation, original.test],
        }
    )
    mark = output / "follows_from"
    is_same = mark.is_file() and mark.read_text(encoding="ascii", errors="replace") == follows_from
    if (output / FINE_TUNING).exists() and not is_same:
        raise OutputError(
            f"{output} holds a round of other corrections, another model, dataset or settings; give a new folder"
        )
    write_text(mark, follows_from)
