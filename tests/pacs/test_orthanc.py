"""With a real PACS and dcmtk's programs: studies come from Orthanc, and their masks are in Orthanc afterwards."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid

from .conftest import SEG, SR, free_port, make_series, save_small_model, until
from .programs import PLUGIN, Listening, Orthanc, dcmtk, need

DATA = os.environ.get("MEDSEG_DATA")


@pytest.fixture(scope="module")
def ports():
    return {"dicom": free_port(), "http": free_port(), "medseg": free_port()}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, ports):
    need("Orthanc")
    if not PLUGIN.exists():
        pytest.skip("Orthanc has no DICOMweb: apt-get install orthanc-dicomweb")
    server = Orthanc(tmp_path_factory.mktemp("orthanc"), ports["dicom"], ports["http"], ports["medseg"])
    yield server
    server.end()


def decoded(seg: Path, folder: Path) -> sitk.Image:
    """Return a segmentation as dcmqi, and so 3D Slicer, reads it."""
    folder.mkdir()
    command = [need("segimage2itkimage"), "--inputDICOM", seg, "--outputDirectory", folder, "--outputType", "nrrd"]
    subprocess.run([*command, "--mergeSegments"], check=True, capture_output=True)
    (image,) = folder.glob("*.nrrd")
    return sitk.ReadImage(str(image))


def mended(folder: Path) -> list[Path]:
    """Copy the real CT series with UIDs in place of its blank ones, without which no PACS takes it.

    Orthanc answers "missing StudyInstanceUID, SeriesInstanceUID or SOPInstanceUID", and storescu finds no presentation
    context for a blank SOP class. The pixels stay as they are, in JPEG 2000.
    """
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    for number, path in enumerate(sorted(Path(DATA, "ct/dicom_series").iterdir())):
        dataset = dcmread(path)
        assert not dataset.SOPClassUID
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.save_as(folder / f"{number:03d}.dcm")
    return sorted(folder.iterdir())


@pytest.mark.skipif(not DATA, reason="MEDSEG_DATA does not name the folder of real scans")
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_real_series_goes_round_though_the_node_is_killed(orthanc, ports, tmp_path, medseg):
    """Into Orthanc, on to medseg, which is killed before it segments; then Orthanc has the next one's mask."""
    files = mended(tmp_path / "mended")
    model = save_small_model(tmp_path / "model", spacing=(4.0, 4.0, 4.0))
    pushed = dcmtk("storescu", "-xv", "-aec", "ORTHANC", "127.0.0.1", ports["dicom"], *files)
    assert pushed.returncode == 0, pushed.stderr
    (study,) = orthanc.ask("/studies")
    queue, to = tmp_path / "queue", ("--send-to", f"ORTHANC@127.0.0.1:{ports['dicom']}", "--port", ports["medseg"])

    first = Listening(queue, model, *to, "--quiet-seconds", 600).wait()
    forwarded = orthanc.ask("/modalities/medseg/store", study)
    assert (forwarded["InstancesCount"], forwarded["FailedInstancesCount"]) == (20, 0)
    first.end(kill=True)
    assert len(list((queue / "received").glob("*/scans/*.dcm"))) == 20
    assert not orthanc.find("SEG")

    second = Listening(queue, model, *to, "--quiet-seconds", 1).wait()
    try:
        until(lambda: list((queue / "done").iterdir()), 120)
    finally:
        assert second.end() == 0
    (instance,) = orthanc.find("SEG")
    assert len(orthanc.find("SR")) == 1
    assert orthanc.ask("/studies") == [study]  # the mask joined the study of its scan

    query = (
        "-k",
        "QueryRetrieveLevel=SERIES",
        "-k",
        "Modality=SEG",
        "-k",
        "SeriesInstanceUID",
        "-k",
        "StudyInstanceUID",
    )
    asked = dcmtk("findscu", "-S", "-v", "-aec", "ORTHANC", "127.0.0.1", ports["dicom"], *query)
    assert "Modality" in asked.stderr + asked.stdout
    assert dcmread(files[0]).StudyInstanceUID in asked.stderr + asked.stdout

    image = decoded(orthanc.fetch(instance, tmp_path / "seg.dcm"), tmp_path / "decoded")
    result = medseg("segment", Path(DATA, "ct/dicom_series"), "--model", model, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    (path,) = (tmp_path / "out/cases").glob("*/mask.nii.gz")
    mask = sitk.ReadImage(str(path))
    there = sitk.Resample(image, mask, sitk.Transform(), sitk.sitkNearestNeighbor)
    expected = sitk.GetArrayFromImage(mask)
    assert 0.05 < (expected == 1).mean() < 0.95
    assert np.count_nonzero(sitk.GetArrayFromImage(there) != expected) == 0
    screen = "".join(first.lines + second.lines) + (queue / "history.jsonl").read_text()
    dataset = dcmread(files[0])
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber"):
        value = str(dataset.get(keyword, ""))
        assert not value or value not in screen, keyword


def test_dcmtk_sends_and_results_are_posted(orthanc, ports, tmp_path, listen):
    """dcmtk's echoscu and storescu speak to the node, an unknown caller can't; STOW-RS brings results to Orthanc."""
    before = set(orthanc.find("SEG") + orthanc.find("SR"))
    node = listen(allow=("STORESCU",), send_to=None, stow=f"{orthanc.url}/dicom-web/studies")
    there = ("-aec", "MEDSEG", "127.0.0.1", node.port)
    files = make_series(tmp_path / "series", 9)
    assert dcmtk("echoscu", "-aet", "STORESCU", *there).returncode == 0
    refused = dcmtk("storescu", "-aet", "STRANGER", *there, *files)
    assert "Calling AE Title Not Recognized" in refused.stderr
    sent = dcmtk("storescu", *there, *files)
    assert sent.returncode == 0, sent.stderr
    until(lambda: node.state_of() == {"done": 1}, 60)
    new = set(orthanc.find("SEG") + orthanc.find("SR")) - before
    stored = [dcmread(orthanc.fetch(one, tmp_path / f"{one}.dcm")) for one in new]
    assert sorted(dataset.SOPClassUID for dataset in stored) == [SEG, SR]
    assert {dataset.StudyInstanceUID for dataset in stored} == {dcmread(files[0]).StudyInstanceUID}
    assert {dataset.PatientID for dataset in stored} == {dcmread(files[0]).PatientID}
    history = [json.loads(line) for line in (node.config.queue / "history.jsonl").read_text().splitlines()]
    assert [line["event"] for line in history] == ["rejected", "complete", "segmented", "done"]
