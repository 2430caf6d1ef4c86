"""A dataset ready to train on: its cases, label map and channels, and which cases train and test.

Masks are opened only where nothing else names the labels, and one image where nothing names the
channels; whether images and masks are sound is checked when every case is measured (`medseg.planning`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medseg.catalog.documents import parse_labels, read_object
from medseg.catalog.identity import safe_ids
from medseg.catalog.layouts import read_listing
from medseg.catalog.listing import Listing, list_name, stem, with_ids
from medseg.catalog.selection import Selection, select_cases
from medseg.catalog.sources import sound_case
from medseg.config import DatasetConfig
from medseg.errors import DatasetError, MedsegError
from medseg.io.scan import inspect_scan, read_case_mask
from medseg.labels import LabelMap
from medseg.provenance import usable_cores
from medseg.text import shown
from medseg.volume import Case

Modality = Literal["ct", "mr", "other"]

MODALITY_WORDS: tuple[tuple[Modality, re.Pattern[str]], ...] = (
    ("ct", re.compile(r"^ct$|^ct[ _-]|computed tomography", re.IGNORECASE)),
    ("mr", re.compile(r"^(mr|mri|t1|t2|flair|pd|dwi|adc|swi)($|[^a-z])|^t[12]|magnetic resonance", re.IGNORECASE)),
)
"""What channel names and DICOM modalities say about intensities."""

LABEL_FILES = ("labels.json", "labels.yaml", "labels.yml")
"""Files of a dataset folder that may hold the label map."""

MOST_UNNAMED = 50
"""Values that masks may hold without names: more are likelier the grey values of a scan that lies among the masks."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Cases and what is to be learnt from them.

    Attributes
    ----------
    name : what the dataset is called.
    cases : all cases of the folder, labelled or not, by id.
    labels : what the masks' values mean.
    channels, modalities : name and kind of intensities of each input channel.
    train : ids of the labelled cases to learn from.
    validation : ids of the labelled cases to measure on.
    test : ids of cases that a table sets apart for a final test.
    layout : how the folder is laid out, in words.
    """

    name: str
    cases: tuple[Case, ...]
    labels: LabelMap
    channels: tuple[str, ...]
    modalities: tuple[Modality, ...]
    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    layout: str = ""

    @property
    def labelled(self) -> tuple[Case, ...]:
        """The labelled cases to learn from."""
        return self.select(self.train)

    @property
    def unlabelled(self) -> tuple[Case, ...]:
        """All other cases but the held-out ones; their masks, where there are any, are not to be used."""
        used = {*self.train, *self.validation, *self.test}
        return tuple(case for case in self.cases if case.id not in used)

    @property
    def set_apart(self) -> tuple[Case, ...]:
        """The cases that nothing may be learnt from: for validation and test."""
        return self.select((*self.validation, *self.test))

    def select(self, ids: Iterable[str]) -> tuple[Case, ...]:
        """Return the cases of these ids; raises `DatasetError` naming those that aren't here."""
        by_id = {case.id: case for case in self.cases}
        wanted = list(ids)
        unknown = [id_ for id_ in wanted if id_ not in by_id]
        if unknown:
            raise DatasetError(f"{self.name} has no case called {shown(unknown)}; it has {shown(by_id)}")
        return tuple(by_id[id_] for id_ in wanted)


def read_dataset(config: DatasetConfig) -> Dataset:
    """Recognise a dataset's layout and resolve what to learn from which cases.

    Raises
    ------
    DatasetError
        If the folder is missing, empty, inconsistent or of no known layout, or if the wanted cases don't
        exist, overlap, or hold no labelled one to train on.
    LabelError
        If the label map is wrong, or a mask that has to be looked at is none.
    ScanError
        If an image that has to be looked at can't be read.
    """
    folder = config.folder if config.folder.is_dir() else config.folder.parent
    listing = read_listing(config.folder)
    named = _with_patients([sound_case(case, config.ingest) for case in listing.cases], config.patients)
    _check_unique(named)
    ids = safe_ids(case.id for case in named)
    cases = with_ids(named, ids)
    chosen = select_cases(cases, config, {**listing.lists, **_read_splits(config, folder)}, ids)
    _check_patients(cases, chosen)
    known = {case.id: case for case in cases}
    looked_at = [known[id_] for id_ in (*chosen.train, *chosen.validation)]
    channels, modalities = _channels(config, listing, looked_at)
    stated = LabelMap.parse(config.labels) if config.labels is not None else stated_labels(listing, folder)
    return Dataset(
        name=(listing.document.name if listing.document else "") or stem(config.folder.resolve()),
        cases=cases,
        labels=stated or _discover_labels(looked_at),
        channels=channels,
        modalities=modalities,
        train=chosen.train,
        validation=chosen.validation,
        test=chosen.test,
        layout=listing.layout,
    )


def _with_patients(cases: Sequence[tuple[Case, str]], pattern: str | None) -> tuple[Case, ...]:
    """Name the patient of every case that doesn't have one yet; cases come with what their headers say."""
    if pattern is None:
        first = _first_cases(cases)
        return tuple(replace(case, patient=case.patient or first.get(whose, case.id)) for case, whose in cases)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"dataset.patients: {pattern!r} is not a regular expression ({error})") from None
    if not expression.groups:
        raise DatasetError(f"dataset.patients: {pattern!r} needs a group in parentheses: the part that is the patient")
    named = []
    for case, _ in cases:
        match = expression.search(case.id)
        if not match or not match[1]:
            raise DatasetError(f"dataset.patients: {pattern!r} finds no patient in the case id {case.id}")
        named.append(replace(case, patient=case.patient or match[1]))
    return tuple(named)


def _first_cases(cases: Sequence[tuple[Case, str]]) -> dict[str, str]:
    """Return how each patient of the headers is called: as a case of theirs says, or after their first case.

    Labelled cases come first, so that scans that are added without masks don't change the folds. A patient whom all
    cases have, or all labelled ones, is an anonymiser's.
    """
    first: dict[str, str] = {}
    for case, whose in sorted(cases, key=lambda one: (not one[0].patient, one[0].mask is None, one[0].id)):
        if whose:
            first.setdefault(whose, case.patient or case.id)
    for group in (cases, [one for one in cases if one[0].mask]):
        everybody = {whose for _, whose in group}
        if len(group) > 1 and len(everybody) == 1:
            first.pop(everybody.pop(), None)
    return first


def _check_unique(cases: Sequence[Case]) -> None:
    repeated = [id_ for id_, count in Counter(case.id for case in cases).items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{len(repeated)} case names occur more than once: {shown(repeated)}; rename the files, or name the cases "
            "in a column 'case'"
        )


def _check_patients(cases: Sequence[Case], chosen: Selection) -> None:
    patients = {case.id: case.patient for case in cases}
    trained = {patients[id_] for id_ in chosen.train}
    shared = [id_ for id_ in chosen.validation if patients[id_] in trained]
    if shared:
        raise DatasetError(
            f"{len(shared)} validation cases are of patients who are also trained on: {shown(shared)}; "
            "move all cases of a patient to one side"
        )


def _read_splits(config: DatasetConfig, folder: Path) -> dict[str, tuple[str, ...]]:
    if config.splits is None:
        return {}
    path = folder / config.splits
    if not path.is_file():
        raise DatasetError(
            f"{path}: there is no such file, but the configuration takes its lists of cases from there "
            "(dataset.splits); copy it there, or train on every labelled case and hold none out: "
            "--set dataset.splits=null --set dataset.train=null --set dataset.validation=null"
        )
    lists = {name: ids for name, ids in read_object(path).items() if isinstance(ids, list)}
    if not lists:
        raise DatasetError(f'{path}: it holds no list of case ids; write it as {{"train": [...], "validation": [...]}}')
    usual = {list_name(name): ids for name, ids in lists.items()}  # a configuration may hold the names as written
    return {name: tuple(map(str, ids)) for name, ids in {**usual, **lists}.items()}


def stated_labels(listing: Listing, folder: Path) -> LabelMap | None:
    """Return the label map that a dataset's own files hold: its dataset.json, or one of the `LABEL_FILES`.

    Raises
    ------
    DatasetError, LabelError
        If it can't be read, or is none.
    """
    stated = listing.document.labels() if listing.document else None
    if stated is not None:
        return stated
    files = [folder / name for name in LABEL_FILES if (folder / name).is_file()]
    return parse_labels(read_object(files[0]), str(files[0])) if files else None


def _discover_labels(cases: Sequence[Case]) -> LabelMap:
    """Name the labels after the values that the masks hold.

    One that can't be read is passed over if others can: who examines the cases names all that are unsound at once.
    """
    with ThreadPoolExecutor(usable_cores()) as threads:
        looks = list(threads.map(_values, cases))
    found = [look for look in looks if not isinstance(look, MedsegError)]
    problems = [look for look in looks if isinstance(look, MedsegError)]
    values = sorted(set().union(*found) - {0})
    if problems and not values:
        raise problems[0]
    if not values:
        raise DatasetError(f"none of the {len(cases)} masks shows any structure; draw one, or name the labels")
    if len(values) > MOST_UNNAMED:
        raise DatasetError(
            f"the masks hold {len(values)} values, up to {values[-1]}: is a scan among them? If not, name the labels, "
            "such as --set 'dataset.labels={liver: 1, spleen: 2}'"
        )
    return LabelMap.from_values(values)


def _values(case: Case) -> set[int] | MedsegError:
    try:
        mask = read_case_mask(case)
    except MedsegError as error:
        return error
    return set(np.unique(mask.array).tolist()) if mask else set()


def _channels(
    config: DatasetConfig, listing: Listing, cases: Sequence[Case]
) -> tuple[tuple[str, ...], tuple[Modality, ...]]:
    """Return the channels' names and kinds, from the documents or else from the headers of the first labelled case.

    Unlabelled cases with other channels are left out where they would be learnt from.
    """
    example = cases[0]
    headers = [inspect_scan(source, channels_last=len(example.images) == 1) for source in example.images]
    count = sum(header.channels for header in headers)
    names = listing.channels or (("image",) if count == 1 else tuple(f"channel_{n}" for n in range(count)))
    _check_channel_count(cases, example, count, len(names))
    if config.modality is not None:
        return names, (config.modality,) * count
    if listing.channels:
        return names, tuple(_modality(name) for name in names)
    return names, tuple(_modality(header.modality) for header in headers for _ in range(header.channels))


def _check_channel_count(cases: Sequence[Case], example: Case, found: int, named: int) -> None:
    if found != named:
        raise DatasetError(f"case {example.id} has {found} channels, but the dataset names {named}; make them agree")
    odd = [case.id for case in cases if len(case.images) != len(example.images)]
    if odd:
        raise DatasetError(
            f"{len(odd)} cases have another number of image files than {example.id} with {len(example.images)}: "
            f"{shown(odd)}; every case needs the same channels"
        )


def _modality(word: str) -> Modality:
    return next((modality for modality, pattern in MODALITY_WORDS if pattern.search(word)), "other")
