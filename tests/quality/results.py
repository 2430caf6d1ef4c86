"""Output folders as a batch leaves them, made without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medseg.batch.record import CaseRecord, Geometry, Inputs, write_record
from medseg.batch.summary import CaseResult, case_rows
from medseg.io.tables import write_csv
from medseg.labels import LabelMap
from medseg.measures.features import CaseFeatures, StructureFeatures, TargetUncertainty
from medseg.measures.intensity import Intensity
from medseg.reference import Calibration, Range, Ranking, Reference, StructureReference

LABELS = LabelMap.parse(
    {
        "labels": [
            {"value": 1, "name": "liver"},
            {"value": 2, "name": "kidney_left"},
            {"value": 3, "name": "kidney_right"},
            {"value": 4, "name": "tumour", "within": "liver"},
        ]
    }
)

VOLUMES = {"liver": 1500.0, "kidney_left": 160.0, "kidney_right": 165.0, "tumour": 12.0}
PLACES = {"liver": (60, 0, 0), "kidney_left": (-60, -30, -40), "kidney_right": (60, -30, -50), "tumour": (70, 10, 5)}


def spread(middle: float, width: float = 0.3, cases: int = 20) -> Range:
    low, high = middle * (1 - width), middle * (1 + width)
    return Range(cases=cases, low=low, p5=low * 1.02, median=middle, p95=high * 0.98, high=high)


def calibration() -> Calibration:
    from medseg.quality.calibration import FEATURES

    return Calibration(
        features=FEATURES,
        mean=(0.97, 0.96, 0.92, 0.0, 0.0, 0.0),
        sd=(0.04, 0.06, 0.04, 0.5, 0.5, 0.5),
        weight=(0.4, 0.5, 0.1, 0.2, 0.1, 0.1),
        bias=2.2,
        cases=40,
        ranking=Ranking(cases=40, spearman=0.81, auroc=0.93, threshold=0.7, error=0.04),
    )


def reference(calibrated: bool = True) -> Reference:
    def structure(name: str) -> StructureReference:
        return StructureReference(
            share=0.5 if name == "tumour" else 1.0,
            volume_ml=spread(VOLUMES[name]),
            components=Range(cases=20, low=1, p5=1, median=1, p95=1, high=3 if name == "tumour" else 1),
            outside_share=Range(cases=20, low=0, p5=0, median=0, p95=0, high=0) if name == "tumour" else None,
            touching=0.0,
            mean=(spread(100.0, 0.2),),
            sd=(spread(20.0),),
        )

    return Reference(
        cases=20,
        spacing=(spread(0.8), spread(0.8), spread(2.5)),
        relative=(False,),
        structures={name: structure(name) for name in VOLUMES},
        soft_dice={name: spread(0.92, 0.06) for name in VOLUMES},
        calibration=calibration() if calibrated else None,
    )


def structure(name: str, **changes: object) -> StructureFeatures:
    values = {
        "volume_ml": VOLUMES[name],
        "components": 1,
        "largest_share": 1.0,
        "borders": "",
        "centroid_mm": PLACES[name],
        "intensity": (Intensity(mean=100.0, sd=20.0),),
        "outside_share": 0.0 if name == "tumour" else None,
        **changes,
    }
    return StructureFeatures.model_validate(values)


def doubt(soft_dice: float | None = 0.93, agreement: float | None = None, soft_ml: float = 0.5) -> TargetUncertainty:
    return TargetUncertainty(
        confidence=None if soft_dice is None else min(1.0, soft_dice + 0.04),
        entropy=0.08,
        border_entropy=0.3,
        soft_dice=soft_dice,
        soft_ml=soft_ml,
        agreement=agreement,
    )


def features(**changes: StructureFeatures | None) -> CaseFeatures:
    """Return a case without anything unusual but what `changes` says; None leaves a structure out."""
    structures = {name: changes.get(name, structure(name)) for name in VOLUMES}
    return CaseFeatures(
        channels=(Intensity(mean=-400.0, sd=500.0),),
        structures={name: found for name, found in structures.items() if found},
        uncertainty={name: doubt() if structures[name] else doubt(None) for name in VOLUMES},
    )


def record(case: str, found: CaseFeatures | None = None, **changes: object) -> CaseRecord:
    found = found or features()
    values = {
        "case": case,
        "kind": "nifti",
        "files": 1,
        "inputs": Inputs(source="s", model="m", settings="t"),
        "model": "abdomen",
        "geometry": Geometry(shape=(512, 512, 120), spacing=(0.8, 0.8, 2.5), axcodes="LPS", affine=[[1.0] * 4] * 4),
        "volumes_ml": {name: found.structures[name].volume_ml if name in found.structures else 0.0 for name in VOLUMES},
        "confidence": 0.95,
        "features": found,
        "seconds": {"read": 1.0},
        "outputs": {},
        "versions": {},
        "finished": "2026-01-01T00:00:00Z",
        **changes,
    }
    return CaseRecord.model_validate(values)


def write_results(
    folder: Path,
    records: Sequence[CaseRecord],
    others: Sequence[CaseResult] = (),
    known: Reference | None = None,
    picture: Path | None = None,
) -> Path:
    """Write an output folder; every case gets the bytes of `picture`."""
    for one in records:
        place = folder / "cases" / one.case
        place.mkdir(parents=True, exist_ok=True)
        write_record(one, place)
        if picture:
            (place / "overlay.png").write_bytes(picture.read_bytes())
    results = [CaseResult(one.case, "done", record=one) for one in records] + list(others)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "cases.csv", *case_rows(results, list(VOLUMES)))
    run = {
        "finished": "2026-01-01T10:00:00Z",
        "model": {"name": "abdomen", "digest": "m"},
        "labels": LABELS.model_dump(mode="json"),
        "reference": known.model_dump(mode="json") if known else None,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder
