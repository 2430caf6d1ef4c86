"""A results folder as `medseg segment` leaves it, made without a network, and a review folder of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.batch.record import Geometry, Inputs
from medseg.config import BatchConfig
from medseg.geometry import Grid
from medseg.io.nifti import write_mask, write_volume
from medseg.io.slicer import COMPLETED, Segment, label_terminology, segment_id, segment_name
from medseg.io.slicer import _segment_pairs as segment_pairs
from medseg.labels import LabelMap
from medseg.provenance import digest_files
from medseg.review.export import export_review
from medseg.review.folder import ReviewFolder, open_review
from medseg.volume import Mask, Source, Volume

from ..cli.conftest import _own_home, medseg  # noqa: F401
from ..quality.results import record, write_results

LABELS = LabelMap.parse(
    {
        "labels": [
            {"value": 1, "name": "liver", "code": {"value": "10200004", "meaning": "Liver"}},
            {"value": 2, "name": "kidney_left", "code": {"value": "64033007", "meaning": "Kidney"}},
            {"value": 3, "name": "kidney_right", "code": {"value": "64033007", "meaning": "Kidney"}},
            {"value": 4, "name": "tumour", "within": "liver", "lesion": True},
        ]
    }
)
CASES = ("alpha", "beta", "gamma.2")
SHAPE = (14, 12, 9)


def affine_of(kind: str = "oblique") -> np.ndarray:
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    matrix = {
        "ras": np.eye(3),
        "lps": np.diag([-1.0, -1, 1]),
        "oblique": turn @ np.diag([-1.0, 1, 1]),
        "sheared": turn @ np.array([[1, 0, 0.2], [0, 1, 0.1], [0, 0, 1]]),
        "sagittal": np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]),
    }[kind]
    affine = np.eye(4)
    affine[:3, :3] = matrix @ np.diag([1.5, 1.5, 4.0])
    affine[:3, 3] = [-20.5, 33.25, -101.0]
    return affine


def make_mask(seed: int = 0, kind: str = "oblique", shape: tuple[int, int, int] = SHAPE) -> Mask:
    """Liver with a tumour in it, and two kidneys; `seed` moves the liver's border."""
    array = np.zeros(shape, np.uint8)
    array[2 : 8 + seed % 3, 2:8, 2:7] = 1
    array[4:6, 4:6, 3:5] = 4
    array[11:13, 1:4, 2:6] = 2
    array[11:13, 7:10, 2:6] = 3
    return Mask(array, Grid(shape, affine_of(kind)))


def make_results(folder: Path, scans: Path, kinds: dict[str, str] | None = None) -> Path:
    """Write scans and the output folder of a run over them."""
    records = []
    for number, case in enumerate(CASES):
        mask = make_mask(number, (kinds or {}).get(case, "oblique"))
        rng = np.random.default_rng(number)
        scan = scans / f"{case}.nii.gz"
        scan.parent.mkdir(parents=True, exist_ok=True)
        write_volume(scan, Volume(rng.normal(40, 30, (1, *SHAPE)).round().astype(np.float32), mask.grid))
        place = folder / "cases" / case
        place.mkdir(parents=True, exist_ok=True)
        write_mask(place / "mask.nii.gz", mask, Source("nifti", (scan,)), LABELS)
        records.append(
            record(
                case,
                confidence=0.9 - 0.1 * number,
                features=None,
                geometry=Geometry.of(mask.grid),
                inputs=Inputs(source=digest_files([scan]), model="m", settings="s"),
                outputs={"mask.nii.gz": digest_files([place / "mask.nii.gz"])},
            )
        )
    write_results(folder, records)
    run = {**json.loads((folder / "run.json").read_text()), "labels": LABELS.model_dump(mode="json")}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """A folder with scans/, results/, review/ and the key, to be copied."""
    folder = tmp_path_factory.mktemp("exported")
    make_results(folder / "results", folder / "scans")
    export_review(folder / "results", folder / "scans", folder / "review", config=BatchConfig(key=folder / "key"))
    return folder


@pytest.fixture
def results(exported, tmp_path) -> Path:
    """The output folder of a run over the scans beside it."""
    for name in ("results", "scans"):
        shutil.copytree(exported / name, tmp_path / name)
    return tmp_path / "results"


@pytest.fixture
def review(exported, tmp_path) -> ReviewFolder:
    """Three exported cases: gamma.2 first, then beta, then alpha."""
    shutil.copytree(exported / "review", tmp_path / "review")
    shutil.copy(exported / "key", tmp_path / "key")
    return open_review(tmp_path / "review")


def segments_of(labels: LabelMap = LABELS, status: str = COMPLETED, **tags: str) -> list[Segment]:
    return [
        Segment(
            segment_id(label), segment_name(label), label.value, label.colour, status, label_terminology(label), 0, tags
        )
        for label in labels.labels
    ]


def write_layers(path: Path, layers: np.ndarray, grid: Grid, segments: list[Segment]) -> Path:
    """Write a .seg.nrrd of any layers, as Slicer does: the list axis first, the extents cropped to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1, -1, 1, 1.0]) @ grid.affine
    vectors = ["(" + ",".join(repr(float(v)) for v in vector) + ")" for vector in affine[:3].T]
    four = len(layers) > 1
    lines = [
        "NRRD0004",
        f"type: {'unsigned char' if layers.dtype == np.uint8 else 'short'}",
        f"dimension: {4 if four else 3}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, layers.shape if four else layers.shape[1:])),
        "space directions: " + ("none " if four else "") + " ".join(vectors[:3]),
        "kinds: " + ("list " if four else "") + "domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: {vectors[3]}",
    ]
    pairs = segment_pairs(grid, segments)
    pairs |= {f"Segment{number}_Layer": str(segment.layer) for number, segment in enumerate(segments)}
    lines += [f"{key}:={value}" for key, value in pairs.items()]
    stored = layers if layers.dtype == np.uint8 else layers.astype("<i2")
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + stored.tobytes(order="F"))
    return path


@pytest.fixture
def hand_in(review) -> Callable[..., Path]:
    """Return a function that saves a mask of a case as a reviewer's Slicer does."""

    def save(case: str, mask: Mask, name: str | None = None, segments: list[Segment] | None = None) -> Path:
        path = review.path / "corrected" / f"{name or case}.seg.nrrd"
        return write_layers(path, mask.array[None], mask.grid, segments_of() if segments is None else segments)

    return save
