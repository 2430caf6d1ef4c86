"""Does the expected Dice find the masks that went wrong? On cases and on kinds of harm that nobody fitted on.

    python benchmarks/quality_control/rank_cases.py look RUN out_of_fold looks.jsonl
    python benchmarks/quality_control/rank_cases.py look RUN validation validation.jsonl
    python benchmarks/quality_control/rank_cases.py judge RUN looks.jsonl [validation.jsonl] --out ranking.json

RUN is a folder that `medseg train` has finished. `look` segments each case as it was scanned, degraded as the
calibration's fit degrades it, and spoilt in each way of harm.py: the cases of a cross-validation out of fold, those
for validation, or all of a dataset folder that the networks have not seen. `judge` fits the calibration on sound
and degraded looks of four fifths of the cases and ranks the sound and spoilt looks of the others; the cases of a
second file are ranked by the calibration of all of the first. Intervals are of 1,000 bootstraps over cases.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from harm import HARMS
from numpy.typing import NDArray

from medseg.catalog.datasets import read_dataset
from medseg.catalog.splits import k_folds
from medseg.config import ExperimentConfig, load_config
from medseg.geometry import Grid
from medseg.inference.predictor import segment_prepared
from medseg.io.scan import read_case
from medseg.measures.features import CaseFeatures, measure_structures
from medseg.measures.intensity import measure_scan
from medseg.networks.model import Model, load_model
from medseg.preprocessing.prepare import prepare_image
from medseg.quality.calibration import (
    FEATURES,
    Observation,
    auroc,
    case_features,
    expected_dice,
    fit_calibration,
    spearman,
)
from medseg.quality.calibration import degraded_copies as copies_for
from medseg.quality.degradation import degrade
from medseg.quality.metrics import evaluate_case
from medseg.training.setup import set_up
from medseg.volume import Case, Mask, Volume

SOUND, DEGRADED = "clean", "aug"
PARTS, BOOTSTRAPS = 5, 1000
BAD, WORST = 0.7, 0.2


@dataclass(frozen=True)
class Look:
    case: str
    kind: str
    features: tuple[float, ...]
    border_entropy: float
    dice: float

    def observation(self) -> Observation:
        return Observation(self.case, self.features, self.dice, self.kind == DEGRADED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    looking = verbs.add_parser("look")
    looking.add_argument("run", type=Path)
    looking.add_argument("part", help="out_of_fold, validation, or a dataset folder")
    looking.add_argument("out", type=Path)
    looking.add_argument("--harms", nargs="*", default=[harm.__name__ for harm in HARMS])
    judging = verbs.add_parser("judge")
    judging.add_argument("run", type=Path)
    judging.add_argument("out_of_fold", type=Path)
    judging.add_argument("validation", type=Path, nargs="?")
    judging.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "look":
        look_at_all(arguments.run, arguments.part, arguments.out, arguments.harms)
        return
    text = json.dumps(judge(arguments.run, arguments.out_of_fold, arguments.validation), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def look_at_all(run: Path, part: str, out: Path, harms: Sequence[str]) -> None:
    config, model = load_config(run / "config.yaml"), load_model(run / "model")
    jobs = [(case, list(model.networks)) for case in unseen_cases(config, run, part)]
    if part == "out_of_fold":
        folds = k_folds(set_up(config, run).train, len(model.networks), config.training.seed)
        jobs = [(c, [network]) for network, fold in zip(model.networks, folds, strict=True) for c in fold.validation]
    with out.open("w", encoding="utf-8") as file:
        for case, networks in jobs:
            for kind, volume, truth in versions(case, copies_for(len(jobs)), harms):
                row = {"case": case.id, "kind": kind, **look(model, networks, volume, truth)}
                file.write(json.dumps(row) + "\n")


def unseen_cases(config: ExperimentConfig, run: Path, part: str) -> tuple[Case, ...]:
    if part == "out_of_fold":
        return ()
    if part == "validation":
        return set_up(config, run).held_out
    folder = {"folder": Path(part), "splits": None, "train": None, "validation": None}
    return read_dataset(config.dataset.model_copy(update=folder)).labelled


def versions(case: Case, degraded_copies: int, harms: Sequence[str]) -> Iterator[tuple[str, Volume, Mask]]:
    volume, truth = read_case(case)
    seed = crc32(case.id.encode())
    yield SOUND, volume, truth
    for copy in range(degraded_copies):
        yield DEGRADED, degrade(volume, np.random.default_rng((seed, copy))), truth
    for number, harm in enumerate(HARMS):
        if harm.__name__ not in harms:
            continue
        rng = np.random.default_rng((seed, 100 + number))
        image, mask = harm(volume.array[0].astype(np.float64), truth.array, float(rng.uniform(0.2, 1)), rng)
        grid = Grid(image.shape, volume.grid.affine)
        array = np.ascontiguousarray(image.astype(np.float32))[None]
        yield harm.__name__, Volume(array, grid, volume.modality), Mask(np.ascontiguousarray(mask), grid)


def look(model: Model, networks: Sequence[torch.nn.Module], volume: Volume, truth: Mask) -> dict[str, object]:
    networks = [network.eval() for network in networks]
    prepared = prepare_image(volume, model.plan)
    device = torch.device("cpu")
    restored = segment_prepared(networks, prepared, model.plan, model.labels, model.inference, device)
    structures = measure_structures(volume, restored.mask, model.labels)
    features = CaseFeatures(channels=measure_scan(volume), structures=structures, uncertainty=restored.uncertainty)
    scores = evaluate_case(restored.mask, truth, model.labels, case="")
    return {"features": features.model_dump(), "dice": {score.target: score.dice for score in scores}}


def read_looks(path: Path, model: Model) -> list[Look]:
    looks = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        dice = [value for value in row["dice"].values() if value is not None]
        if dice:
            features = CaseFeatures.model_validate(row["features"])
            doubts = [d.border_entropy for d in features.uncertainty.values() if d.border_entropy is not None]
            border = -float(np.mean(doubts)) if doubts else -1.0
            values = case_features(features, model.reference)
            looks.append(Look(row["case"], row["kind"], values, border, float(np.mean(dice))))
    return looks


def judge(run: Path, out_of_fold: Path, validation: Path | None) -> dict[str, object]:
    model = load_model(run / "model")
    looks = read_looks(out_of_fold, model)
    result: dict[str, object] = {"run": model.name, "features": FEATURES}
    result["out_of_fold"] = rank_all(looks, lambda kinds: cross_fitted(looks, kinds))
    if validation:
        held_out = read_looks(validation, model)
        result["validation"] = rank_all(held_out, lambda kinds: fitted(looks, held_out, kinds))
    result["calibration"] = fit_calibration(
        [s.observation() for s in looks if s.kind in (SOUND, DEGRADED)]
    ).model_dump()
    return result


def fitted(known: Sequence[Look], asked: Sequence[Look], kinds: Sequence[str]) -> NDArray[np.float64]:
    calibration = fit_calibration([s.observation() for s in known if s.kind in kinds])
    return np.array([expected_dice(s.features, calibration) for s in asked])


def cross_fitted(looks: Sequence[Look], kinds: Sequence[str]) -> NDArray[np.float64]:
    part = {case: n % PARTS for n, case in enumerate(dict.fromkeys(s.case for s in looks))}
    expected = np.empty(len(looks))
    for number in range(PARTS):
        inside = [n for n, s in enumerate(looks) if part[s.case] == number]
        others = [s for s in looks if part[s.case] != number]
        expected[inside] = fitted(others, [looks[n] for n in inside], kinds)
    return expected


def rank_all(looks: Sequence[Look], expect: Callable[[Sequence[str]], NDArray[np.float64]]) -> dict[str, object]:
    """Rank by the fit as it is, by one on sound scans alone, and by single features."""
    dice = np.array([s.dice for s in looks])
    scores = {"expected_dice": expect((SOUND, DEGRADED)), "expected_dice_fitted_on_sound_scans": expect((SOUND,))}
    for number, name in enumerate(FEATURES):
        scores[f"{name} alone"] = np.array([s.features[number] for s in looks])
    scores["border_entropy alone"] = np.array([s.border_entropy for s in looks])
    sound = np.array([s.kind == SOUND for s in looks])
    asked = np.array([s.kind != DEGRADED for s in looks])
    cases = np.array([s.case for s in looks])
    harms = sorted({s.kind for s in looks} - {SOUND, DEGRADED})
    kinds = {name: np.array([s.kind in (SOUND, name) for s in looks]) for name in harms}
    best = scores["expected_dice"]
    return {
        "sound_scans": {name: ranked(score[sound], dice[sound], cases[sound]) for name, score in scores.items()},
        "sound_and_spoilt": {name: ranked(score[asked], dice[asked], cases[asked]) for name, score in scores.items()},
        "sound_and_one_harm": {
            name: ranked(best[those], dice[those], cases[those], bootstraps=0) for name, those in kinds.items()
        },
    }


def ranked(
    score: NDArray[np.float64], dice: NDArray[np.float64], cases: NDArray[np.str_], bootstraps: int = BOOTSTRAPS
) -> dict[str, object]:
    """Return rank correlation, AUROCs and mean error, each with its 95 % interval over cases."""
    worst = float(np.quantile(dice, WORST))
    measures: dict[str, Callable[[NDArray, NDArray], float | None]] = {
        "spearman": spearman,
        "auroc_below_0.7": lambda s, d: auroc(-s, d < BAD),
        "auroc_worst_fifth": lambda s, d: auroc(-s, d <= worst),
    }
    found: dict[str, object] = {
        "looks": len(dice), "mean_dice": round(float(dice.mean()), 3), "bad": int((dice < BAD).sum()),
        "error": round(float(np.abs(score - dice).mean()), 3),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    by_case = [np.flatnonzero(cases == case) for case in np.unique(cases)]
    draws = [
        np.concatenate([by_case[n] for n in rng.integers(len(by_case), size=len(by_case))]) for _ in range(bootstraps)
    ]
    for name, measure in measures.items():
        value = measure(score, dice)
        found[name] = None if value is None else round(value, 3)
        drawn = [v for draw in draws if (v := measure(score[draw], dice[draw])) is not None]
        if value is not None and drawn:
            found[f"{name}_95"] = [round(float(v), 3) for v in np.percentile(drawn, [2.5, 97.5])]
    return found


if __name__ == "__main__":
    main()
