"""A DICOM segmentation as 3D Slicer writes it, with dcmqi: frames without a voxel left out, cropped or not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.dicom_write import write_series
from medseg.io.slicer import write_seg_nrrd
from medseg.review.identity import match_segments
from medseg.review.lattice import place
from medseg.volume import Volume

from .conftest import LABELS, SHAPE, make_mask
from .test_corrected import corrected_of

dcmqi = pytest.importorskip("dcmqi", reason="dcmqi, from the dev extra, writes segmentations as 3D Slicer does")
PROGRAM = Path(dcmqi.__file__).parent / "bin" / "itkimage2segimage"


def code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


def attributes(number: int, label: str, kind: dict[str, str]) -> dict[str, object]:
    return {
        "labelID": number,
        "SegmentLabel": label,
        "SegmentDescription": label,
        "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": code("123037004", "Anatomical Structure"),
        "SegmentedPropertyTypeCodeSequence": kind,
        "recommendedDisplayRGBValue": [200, 100, 0],
    }


@pytest.mark.parametrize("kind", ["lps", "oblique"])
def test_it_comes_back_voxel_for_voxel(tmp_path, kind):
    truth = corrected_of(make_mask(0, kind))
    rng = np.random.default_rng(0)
    write_series(Volume(rng.integers(0, 90, (1, *SHAPE)).astype(np.float32), truth.grid), tmp_path / "series")
    write_seg_nrrd(tmp_path / "label.seg.nrrd", truth, LABELS)
    (tmp_path / "label.seg.nrrd").rename(tmp_path / "label.nrrd")
    named = [
        attributes(1, "liver", code("10200004", "Liver")),
        attributes(2, "kidney_left", code("64033007", "Kidney")),
        attributes(4, "tumour", code("4147007", "Mass")),
    ]
    meta = {
        "ContentCreatorName": "Reader",
        "SeriesDescription": "review",
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "segmentAttributes": [named],
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    words = ["--inputImageList", "label.nrrd", "--inputDICOMDirectory", "series", "--inputMetadata", "meta.json"]
    done = subprocess.run(
        [PROGRAM, *words, "--outputDICOM", "seg.dcm", "--skip"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "seg.dcm").exists(), done.stdout + done.stderr
    found = read_dicom_seg(tmp_path / "seg.dcm")
    values = match_segments(found.segments, LABELS)
    mask = np.zeros(found.grid.shape, np.uint8)
    for position, value in values.items():
        mask[found.region(found.segments[position])] = value
    assert np.array_equal(place(mask, found.grid, truth.grid), truth.array)
