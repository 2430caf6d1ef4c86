"""How far can pseudo-labels be believed? Hippocampus, twelve labelled: precision against coverage, and calibration.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/pseudo_labels.py --runs RUNS [--max-seconds N]

Two teachers learn from half of the twelve labelled scans each, and are calibrated on the other half. Each looks at all
168 unlabelled training scans. Only then are the true masks of these opened, to see what the probabilities
promised: of the voxels above each confidence, how many are right (precision) and how many are left (coverage), and
accuracy by confidence, with and without the temperature that the labelled scans gave. Measured within five voxels of
structures, drawn or predicted, where it is hard. A finished run is only read again. Writes results/pseudo_labels.json
and .png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from arms import STEPS, configuration  # noqa: E402
from halves import halves, sized  # noqa: E402
from held_out import training_pool  # noqa: E402
from scans import real_scans, training_arguments  # noqa: E402

from medseg.catalog.datasets import read_dataset  # noqa: E402
from medseg.catalog.splits import Fold  # noqa: E402
from medseg.config import PseudoLabelConfig  # noqa: E402
from medseg.io.scan import read_case  # noqa: E402
from medseg.preprocessing.prepare import prepare_image, prepare_mask  # noqa: E402
from medseg.provenance import machine, package_versions  # noqa: E402
from medseg.pseudo.calibration import (  # noqa: E402
    BINS,
    Calibration,
    Sample,
    Verdicts,
    calibration_error,
    pooled_verdicts,
)
from medseg.pseudo.evidence import applied, gather_evidence  # noqa: E402
from medseg.pseudo.exam import LabelledScan, examine  # noqa: E402
from medseg.pseudo.forward import TeachersForward  # noqa: E402
from medseg.pseudo.probability import decision_names  # noqa: E402
from medseg.pseudo.teachers import Teachers, gather_teachers  # noqa: E402
from medseg.training.run import RunOptions, run_training  # noqa: E402
from medseg.volume import Case  # noqa: E402

CPU = torch.device("cpu")
EDGES = np.linspace(0.3, 1.0, 29)


def main() -> None:
    parser = training_arguments(__doc__)
    arguments = parser.parse_args()
    data = real_scans("hippocampus") / "hippocampus"
    teachers = train_teachers(data, arguments)
    if teachers is None:
        return
    calibration = gather_evidence(teachers, PseudoLabelConfig(), CPU).calibration(PseudoLabelConfig())
    samples = list(look_at_others(data, teachers))
    keep(teachers, calibration, samples)


def train_teachers(data: Path, arguments: argparse.Namespace, study: str = "halves") -> Teachers | None:
    """Return the networks of `halves.py`, each taught half of the twelve labelled cases; None: out of time."""
    folders, folds = [], []
    for half, config in enumerate(sized(each, study) for each in halves(data, "supervised")):
        folder = arguments.runs / f"{study}_supervised_{half}"
        options = RunOptions("cpu", max_seconds=arguments.max_seconds, cache=arguments.runs / "cache", screen=True)
        if run_training(config, folder, options).model is None:
            return None
        learnt, held_out = (known_cases(data, ids) for ids in (config.dataset.train, config.dataset.validation))
        folders.append(folder)
        folds.append(Fold(learnt, held_out))
    return gather_teachers(folders, folds)


def known_cases(data: Path, ids: list[str]) -> tuple[Case, ...]:
    """Return training cases with their masks."""
    config = configuration(data, "supervised", "12_0", STEPS)
    return read_dataset(config.dataset.model_copy(update={"train": ids, "validation": []})).labelled


def look_at_others(data: Path, teachers: Teachers, prototypes: Sequence[Tensor] | None = None) -> Iterator[Sample]:
    """Yield what each teacher says of voxels of every other training scan, with the truth.

    With class prototypes, one a teacher, also how similar each voxel is to them.
    """
    labelled, looks = {case.id for case in teachers.labelled}, applied(teachers, PseudoLabelConfig())
    forwards = [
        TeachersForward(teachers.alone(number), looks, CPU, prototypes and prototypes[number : number + 1])
        for number in range(len(teachers.members))
    ]
    for case in known_cases(data, sorted(set(training_pool(data)) - labelled)):
        volume, mask = read_case(case)
        prepared = prepare_image(volume, teachers.plan)
        assert mask is not None
        scan = LabelledScan(case.id, prepared, prepare_mask(mask, teachers.labels, prepared.grid))
        for number, forward in enumerate(forwards):
            yield examine(scan, number, forward).sample


def keep(teachers: Teachers, calibration: Calibration, samples: list[Sample]) -> None:
    """Write, plot and print what came out."""
    names = decision_names(teachers.labels)
    plain, warm = (pooled_verdicts(samples, teachers.labels, heat) for heat in (1.0, calibration.temperature))
    record = {
        "temperature": calibration.temperature,
        "ece_labelled": {"before": calibration.ece_before, "after": calibration.ece_after},
        "ece_unlabelled": {"before": calibration_error(plain), "after": calibration_error(warm)},
        "thresholds": {
            name: {"threshold": threshold, **believed(warm.of(decision), threshold)}
            for decision, (name, threshold) in enumerate(zip(names, calibration.thresholds, strict=True))
        },
        "curves": {name: curve(warm.of(decision)) for decision, name in enumerate(names)},
        "reliability": {"before": reliability(plain), "after": reliability(warm)},
        "looks": len(samples),
        "machine": machine(),
        "versions": package_versions(),
    }
    results = HERE / "results"
    (results / "pseudo_labels.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(record, results / "pseudo_labels.png")
    print(json.dumps({name: record[name] for name in ("temperature", "ece_unlabelled", "thresholds")}, indent=1))


def believed(verdicts: Verdicts, threshold: float) -> dict[str, float | None]:
    """Return precision and coverage of the voxels at least so sure."""
    kept = verdicts.confidence >= threshold
    weight = verdicts.weight[kept].sum()
    return {
        "precision": float((verdicts.weight * verdicts.right)[kept].sum() / weight) if weight else None,
        "coverage": float(weight / verdicts.weight.sum()),
    }


def curve(verdicts: Verdicts) -> list[dict[str, float | None]]:
    return [{"threshold": round(float(edge), 3), **believed(verdicts, edge)} for edge in EDGES]


def reliability(verdicts: Verdicts) -> list[tuple[float, float, float]]:
    """Return mean confidence, accuracy and share of the voxels in each bin of confidence."""
    bins = np.minimum((verdicts.confidence * BINS).astype(int), BINS - 1)
    total = np.bincount(bins, verdicts.weight, BINS)
    sure = np.bincount(bins, verdicts.weight * verdicts.confidence, BINS)
    right = np.bincount(bins, verdicts.weight * verdicts.right, BINS)
    return [
        (float(s / t), float(r / t), float(t / total.sum())) for s, r, t in zip(sure, right, total, strict=True) if t
    ]


def plot(record: dict, path: Path) -> None:
    """Draw precision against coverage for each class, and accuracy against confidence."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for name, points in record["curves"].items():
        found = [(p["coverage"], p["precision"]) for p in points if p["precision"] is not None]
        (line,) = left.plot(*zip(*found, strict=True), label=name)
        chosen = record["thresholds"][name]
        left.plot(chosen["coverage"], chosen["precision"], "o", color=line.get_color())
    left.set(xlabel="coverage: share of the class's voxels kept", ylabel="precision: share of them that is right")
    left.set_title("dots: thresholds chosen on the labelled scans", fontsize=9)
    left.legend(frameon=False)
    for name, points in record["reliability"].items():
        sure, accurate, _ = zip(*points, strict=True)
        right.plot(sure, accurate, marker="o", markersize=3, label=f"{name} calibration")
    right.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    right.set(xlabel="confidence", ylabel="accuracy", xlim=(0.3, 1.01), ylim=(0.0, 1.01))
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
