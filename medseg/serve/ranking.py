"""Which case a person should look at next; another answer after every label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

import numpy as np

from medseg.errors import ScanError
from medseg.io.scan import read_case
from medseg.selection.appearance import Parts, describe_appearance, to_points
from medseg.selection.covering import k_centres
from medseg.serve.desk import Desk
from medseg.serve.refusal import NOT_FOUND, RequestError
from medseg.serve.studies import Studies
from medseg.volume import Case

STRATEGIES = {
    "uncertainty": "the case whose mask is most doubtful; those that are not segmented yet come last",
    "diverse": "the scan that is most unlike those that are labelled",
    "random": "any scan without a label",
}

HELD_SECONDS = 15 * 60.0
"""For so long a case that one client was given is given to others only if there is no other."""

LOOK_SECONDS = 20.0
"""Longest time that a request for a diverse case looks at scans it has not seen."""


@dataclass(slots=True)
class Ranking:
    """Chooses among the cases that nobody has labelled.

    Attributes
    ----------
    rng : of the random choice.
    clock : time in s.
    """

    studies: Studies
    desk: Desk
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    clock: Callable[[], float] = monotonic
    _given: dict[str, tuple[str, float]] = field(default_factory=dict)
    _seen: dict[str, Parts] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names of the strategies; the one for doubt only where a model can doubt."""
        return tuple(name for name in STRATEGIES if self.desk.model or name != "uncertainty")

    def next(self, strategy: str, client: str) -> Case | None:
        """Return the case that a client should look at; None if every case is labelled.

        Raises
        ------
        RequestError
            404 if there is no such strategy.
        """
        if strategy not in self.strategies:
            raise RequestError(NOT_FOUND, f"there is no such strategy; there are {', '.join(self.strategies)}")
        with self._lock:
            free = [case for case in self.studies.cases.values() if self._is_free(case.id)]
            if not free:
                return None
            unclaimed = [case for case in free if not self._is_held(case.id, client)]
            chosen = getattr(self, f"_{strategy}")(unclaimed or free)
            self._given[chosen.id] = (client, self.clock())
            return chosen

    def leave_out(self, case: str) -> None:
        """Choose a case no more, because its scan can't be read."""
        self._broken.add(case)

    def _is_free(self, case: str) -> bool:
        return not self.desk.is_judged(case) and case not in self._broken

    def _is_held(self, case: str, client: str) -> bool:
        holder, since = self._given.get(case, (client, 0.0))
        return holder != client and self.clock() - since < HELD_SECONDS

    def _uncertainty(self, cases: Sequence[Case]) -> Case:
        return max(cases, key=lambda case: (self._doubt(case), case.id))

    def _doubt(self, case: Case) -> float:
        known = self.desk.known(case.id)
        return known.priority if known and known.prediction else -1.0

    def _random(self, cases: Sequence[Case]) -> Case:
        return cases[int(self.rng.integers(len(cases)))]

    def _diverse(self, cases: Sequence[Case]) -> Case:
        until = self.clock() + LOOK_SECONDS
        labelled = [case for case in self.studies.cases.values() if self.desk.is_judged(case.id)]
        for case in (*labelled, *cases):
            if case.id not in self._seen and self.clock() < until:
                self._look(case)
        looked_at = [case for case in cases if case.id in self._seen]
        covered = [self._seen[case.id] for case in labelled if case.id in self._seen]
        if not looked_at:
            return cases[0]
        points = to_points([*(self._seen[case.id] for case in looked_at), *covered])
        (centre,) = k_centres(points[: len(looked_at)], 1, points[len(looked_at) :])
        return looked_at[centre.row]

    def _look(self, case: Case) -> None:
        try:
            parts = describe_appearance(read_case(case)[0])
        except ScanError:
            return  # told when somebody asks for it
        alike = next(iter(self._seen.values()), parts)
        if [part.shape for part in parts] == [part.shape for part in alike]:  # of as many channels
            self._seen[case.id] = parts
