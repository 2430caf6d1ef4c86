"""Which cases train and which are held out: from lists of ids, or all that are left."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.catalog.listing import stem
from medseg.config import DatasetConfig
from medseg.errors import DatasetError
from medseg.text import shown
from medseg.volume import Case

logger = logging.getLogger(__name__)

Lists = Mapping[str, tuple[str, ...]]

TEST_LIST = "test"
"""A list of this name, the layout's own or of the splits file, is kept apart: neither trained on, nor measured on while
training."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Ids of the labelled cases to learn from, of those to measure on, and of those set apart."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def select_cases(cases: Sequence[Case], config: DatasetConfig, named: Lists, ids: Mapping[str, str]) -> Selection:
    """Resolve the configuration's wishes.

    Without a wish the lists called "train" and "validation" hold, of the splits file or the dataset's own; without
    those, every labelled case trains that is not held out. Cases of a training list that have no mask count as
    unlabelled.

    Parameters
    ----------
    cases : all cases.
    config : its `train` and `validation` are the wishes.
    named : lists that the dataset's layout holds, such as a table's column ``split``, and those of the splits file.
    ids : of the cases, by the names of their files, which lists may hold as well, as paths or with their endings too.

    Raises
    ------
    DatasetError
        If a list or case doesn't exist, a case is wanted twice or on both sides, a validation case has no
        mask, or no training case has one.
    """
    labelled = {case.id: case.mask is not None for case in cases}

    def called(names: Iterable[str]) -> tuple[str, ...]:
        # in a test list, which may name cases that lie elsewhere, a file would be passed over and its case trained on
        return tuple(ids.get(name) or ids.get(stem(Path(name)), name) for name in names)

    lists = {name: called(listed) for name, listed in named.items()}
    validation = called(_wanted("validation", config.validation, lists, lists.get("validation", ())))
    test = tuple(id_ for id_ in lists.get(TEST_LIST, ()) if id_ in labelled)  # others are apart already
    held_out = {*validation, *test}
    rest = tuple(id_ for id_ in labelled if id_ not in held_out)
    train = called(_wanted("train", config.train, lists, lists.get("train", rest)))
    if config.train is None and "train" not in lists:
        _tell_unheeded(lists, set(rest))
    for field, listed in (("train", train), ("validation", validation)):
        _check_ids(field, listed, labelled)
    for field, listed in (("validation", validation), (TEST_LIST, test)):
        both = sorted(set(train) & set(listed))
        if both:
            raise DatasetError(f"{len(both)} cases are both in train and in {field}: {shown(both)}; keep each in one")
    bare = [id_ for id_ in validation if not labelled[id_]]
    if bare:
        raise DatasetError(f"{len(bare)} validation cases have no mask to be measured by: {shown(bare)}")
    learnt = tuple(id_ for id_ in train if labelled[id_])
    if not learnt:
        raise DatasetError(f"none of the {len(train)} training cases has a mask; at least one must be labelled")
    return Selection(learnt, validation, tuple(id_ for id_ in test if id_ not in set(validation)))


def _wanted(field: str, wish: str | Sequence[str] | None, lists: Lists, default: tuple[str, ...]) -> tuple[str, ...]:
    if wish is None:
        return default
    if not isinstance(wish, str):
        return tuple(wish)
    if wish in lists:
        return lists[wish]
    known = f"there are {shown(lists)}" if lists else "there is no list: set dataset.splits to a file of lists"
    raise DatasetError(f"dataset.{field}: there is no list called {wish!r}; {known}")


def _tell_unheeded(lists: Lists, train: set[str]) -> None:
    """Say which lists keep no case from training although they may be meant to, such as a misspelt test list."""
    for name, listed in lists.items():
        if common := train.intersection(listed):
            logger.warning(
                "the list %r means nothing here, so its %d cases train; call it test to keep them apart, or set "
                "dataset.train to what trains",
                name,
                len(common),
            )


def _check_ids(field: str, ids: Sequence[str], known: Mapping[str, bool]) -> None:
    unknown = [id_ for id_ in ids if id_ not in known]
    if unknown:
        raise DatasetError(
            f"dataset.{field} names {len(unknown)} cases that the folder doesn't hold: {shown(unknown)} "
            f"(it holds {shown(known)})"
        )
    repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DatasetError(f"dataset.{field} names {shown(repeated)} more than once")
