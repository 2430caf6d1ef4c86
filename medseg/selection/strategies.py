"""In which order unlabelled scans are worth a person's time, and why.

*uncertainty-diversity*: doubt with noise first, then coverage. Log doubt plus Gumbel noise (Kirsch et al.,
"Stochastic Batch Acquisition", TMLR 2023) picks three times as many scans as wanted; of those, greedy k-centre
takes the ones that are unlike what is labelled and unlike each other. The noise falls as labels grow and every
structure has equal say, as in ClaSP PE (Lüth et al., arXiv 2601.13677), which queries patches where this ranks
whole scans. Without a model, k-centre alone, on the scans' appearance.

*foreground-random*: a structure is drawn, then a scan in which the model finds it. In nnActive (Lüth et al.,
arXiv 2511.19183) no earlier method reliably beat drawing with an eye to the foreground, so it is the one to beat.

*random*: every scan is as likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.selection.covering import Centre, k_centres
from medseg.selection.doubt import View

Strategy = Literal["uncertainty-diversity", "random", "foreground-random"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

POOL = 3
"""Doubtful scans that diversity chooses from, for each one wanted."""

LEAST_DOUBT = 1e-6
"""Below it doubts are equal: their logarithm must be finite."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One scan to label.

    Attributes
    ----------
    index : its row among the candidates.
    score : what it was chosen by: doubt from 0 to 1; without a model, distance; None where it was drawn.
    why : the same in words.
    """

    index: int
    score: float | None
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What can be chosen from.

    Attributes
    ----------
    points : (n, d) what the scans are like, comparable with `covered`.
    covered : (m, d) the same of scans that are labelled already.
    views : what a model says of each; empty without a model.
    learnt : number of scans that the model learnt from.
    """

    points: NDArray[np.float64]
    covered: NDArray[np.float64]
    views: tuple[View, ...] = ()
    learnt: int = 0


def strategy_named(word: str) -> Strategy:
    """Return the strategy of a name; raises `ConfigError` where there is none."""
    for strategy in STRATEGIES:
        if strategy == word:
            return strategy
    raise ConfigError(f"there is no strategy {word!r}; there are {', '.join(STRATEGIES)}")


def check_strategy(strategy: Strategy, *, has_model: bool) -> None:
    """Refuse a strategy that needs a model where there is none; raises `ConfigError`."""
    if strategy == "foreground-random" and not has_model:
        raise ConfigError("foreground-random draws by what a model finds: give --model, or take another strategy")


def choose(candidates: Candidates, count: int, strategy: Strategy, rng: np.random.Generator) -> list[Choice]:
    """Return the scans to label next, the most useful first; all of them if there are fewer than `count`.

    Raises
    ------
    ConfigError
        If the strategy needs a model and there is none.
    """
    if strategy == "random":
        order = rng.permutation(len(candidates.points))[:count]
        return [Choice(int(index), None, "drawn at random") for index in order]
    if strategy == "foreground-random":
        check_strategy(strategy, has_model=bool(candidates.views))
        return _foreground_random(candidates.views, count, rng)
    if not candidates.views:
        return [_different(centre) for centre in k_centres(candidates.points, count, candidates.covered)]
    return _doubtful_and_different(candidates, count, rng)


def _doubtful_and_different(candidates: Candidates, count: int, rng: np.random.Generator) -> list[Choice]:
    doubts = np.array([view.score for view in candidates.views])
    sharpness = max(1.0, candidates.learnt / count)
    noisy = np.log(np.maximum(doubts, LEAST_DOUBT)) + rng.gumbel(size=len(doubts)) / sharpness
    pool = np.argsort(-noisy, kind="stable")[: POOL * count]
    centres = k_centres(candidates.points[pool], count, candidates.covered, first=0)
    choices = []
    for centre in centres:
        index = int(pool[centre.row])
        why = f"{_doubted(candidates.views[index])}; {_place(centre, 'chosen first')}"
        choices.append(Choice(index, float(doubts[index]), why))
    return choices


def _foreground_random(views: Sequence[View], count: int, rng: np.random.Generator) -> list[Choice]:
    left = list(range(len(views)))
    choices: list[Choice] = []
    while left and len(choices) < count:
        targets = sorted({target for index in left for target in views[index].found})
        if targets:
            target = targets[int(rng.integers(len(targets)))]
            showing = [index for index in left if target in views[index].found]
            why = f"drawn at random of {len(showing)} scans in which the model finds {target}"
        else:
            showing, why = left, "drawn at random: the model finds nothing in it"
        index = showing[int(rng.integers(len(showing)))]
        choices.append(Choice(index, None, why))
        left.remove(index)
    return choices


def _different(centre: Centre) -> Choice:
    return Choice(centre.row, centre.distance, _place(centre, "in the middle of all scans"))


def _doubted(view: View) -> str:
    suspected = {name: value for name, value in view.doubt.items() if value is not None}
    if not suspected:
        return "the model suspects nothing in it"
    target = max(suspected, key=lambda name: suspected[name])
    return f"doubt {view.score:.2f} of 1, most about {target}"


def _place(centre: Centre, alone: str) -> str:
    if centre.distance is None:
        return alone
    return f"{centre.distance:.2f} away from the nearest scan that is labelled or above"
