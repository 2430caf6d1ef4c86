"""Do pseudo-labels improve where they move to what their voxels resemble? Hippocampus, twelve labelled.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/similarity.py --runs RUNS [--max-seconds N]

Two small teachers, as in the ablation, learn from half of the twelve labelled scans each, and look at all 168
unlabelled training scans. For each share of similarity to the class prototypes (`pseudo.prototype_share`): how many
voxels within five of structures, drawn or predicted, get the right label, on the labelled scans that the teacher had
not seen, which alone may choose, and on the unlabelled ones. Writes results/similarity.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pseudo_labels import CPU, look_at_others, train_teachers
from scans import real_scans, training_arguments

from medseg.config import PseudoLabelConfig
from medseg.labels import LabelMap
from medseg.provenance import machine, package_versions
from medseg.pseudo.calibration import Sample, pooled_verdicts
from medseg.pseudo.evidence import gather_evidence

RESULT = Path(__file__).parent / "results" / "similarity.json"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)


def main() -> None:
    arguments = training_arguments(__doc__).parse_args()
    data = real_scans("hippocampus") / "hippocampus"
    teachers = train_teachers(data, arguments, "ablation")
    if teachers is None:
        return
    evidence = gather_evidence(teachers, PseudoLabelConfig(), CPU)
    heat = evidence.calibration(PseudoLabelConfig()).temperature
    others = list(look_at_others(data, teachers, evidence.prototypes))
    record = {
        "temperature": heat,
        "labelled": right_voxels([exam.sample for exam in evidence.exams], teachers.labels, heat),
        "unlabelled": right_voxels(others, teachers.labels, heat),
        "machine": machine(),
        "versions": package_versions(),
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({name: record[name] for name in ("labelled", "unlabelled")}, indent=1))


def right_voxels(samples: Sequence[Sample], labels: LabelMap, heat: float) -> dict[str, float]:
    """Return the share of the voxels with the right label, by the share of similarity."""
    found = {}
    for share in SHARES:
        verdicts = pooled_verdicts(samples, labels, heat, share)
        found[f"{share:g}"] = float((verdicts.weight * verdicts.right).sum() / verdicts.weight.sum())
    return found


if __name__ == "__main__":
    main()
