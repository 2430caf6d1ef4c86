"""What all objects derived from a series quote of it, whatever its headers hold."""

import numpy as np
import pydicom
import pytest

from medseg.errors import ReasonCode, SeriesError
from medseg.io.dicom import read_series
from medseg.io.dicom_rtstruct import write_rtstruct
from medseg.io.dicom_seg import write_dicom_seg
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.dicom_sr import write_dicom_sr
from medseg.labels import LabelMap
from medseg.measures.measure import measure_mask
from medseg.volume import Mask

from .dicom_results import ALGORITHM, LABELS, blobs


@pytest.mark.parametrize(
    ("keyword", "value", "copied"),
    [
        ("PatientBirthDate", "00000000", ""),
        ("PatientBirthDate", "unknown", ""),
        ("StudyDate", "01/02/2020", ""),
        ("StudyDate", "2020.02.01", "2020.02.01"),  # as ACR-NEMA wrote it
        ("StudyTime", "12:00:00", ""),
        ("PatientSex", "female", ""),
        ("PatientSex", "F", "F"),
        (
            "PatientName",
            "\xd5\\^Anna",
            "",
        ),  # an ideogram in GBK that the file does not say: its second byte parts values
        ("PatientName", "M\xfcller^Anna", "M\xfcller^Anna"),
        ("AccessionNumber", "longer than the sixteen letters of DICOM", "longer than the sixteen letters of DICOM"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR:UserWarning")
def test_values_that_are_none_of_dicoms_cost_no_result(tmp_path, phantom, keyword, value, copied):
    def change(dataset, _):
        with pydicom.config.disable_value_validation():
            setattr(dataset, keyword, value)

    source = phantom().edit(change).source
    volume = read_series(source)
    mask = Mask(blobs(), volume.grid)
    paths = [tmp_path / f"{name}.dcm" for name in ("segmentation", "contours", "measurements")]
    write_dicom_seg(paths[0], mask, LABELS, source, ALGORITHM)
    write_rtstruct(paths[1], mask, LABELS, source, ALGORITHM)
    write_dicom_sr(paths[2], measure_mask(volume, mask, LABELS, 2).measures, LABELS, source, ALGORITHM)
    assert [str(pydicom.dcmread(path)[keyword].value or "") for path in paths] == [copied] * 3


def test_a_name_that_is_cut_before_a_word_ends_without_a_space(tmp_path, phantom):
    """DICOM pads with spaces at the end, so that one of a name's own does not come back."""
    name = f"{'x' * 63} and more"
    labels = LabelMap.parse({name: 3})
    source = phantom().source
    volume = read_series(source)
    mask = Mask(blobs(), volume.grid)
    write_dicom_seg(tmp_path / "segmentation.dcm", mask, labels, source, ALGORITHM)
    write_rtstruct(tmp_path / "contours.dcm", mask, labels, source, ALGORITHM)
    measures = measure_mask(volume, mask, labels, 2).measures
    write_dicom_sr(tmp_path / "measurements.dcm", measures, labels, source, ALGORITHM)
    assert pydicom.dcmread(tmp_path / "contours.dcm").StructureSetROISequence[0].ROIName == "x" * 63
    assert ("x" * 63).encode() in (tmp_path / "measurements.dcm").read_bytes()


def test_equal_results_of_two_phases_are_two_objects(tmp_path, phantom):
    """Both quote the UID of the one series that they are of, as two echoes do."""
    first, second = phantom("first"), phantom("second")
    second.edit(lambda dataset, number: setattr(dataset, "SOPInstanceUID", f"1.2.3.{number}"))
    path, uids = tmp_path / "result.dcm", []
    for source in (first.source, second.source):
        volume = read_series(source)
        mask = Mask(blobs(), volume.grid)
        measures = measure_mask(volume, mask, LABELS, 2).measures
        write_dicom_seg(path, mask, LABELS, source, ALGORITHM)
        uids.append(pydicom.dcmread(path).SOPInstanceUID)
        write_rtstruct(path, mask, LABELS, source, ALGORITHM)
        uids.append(pydicom.dcmread(path).SOPInstanceUID)
        write_dicom_sr(path, measures, LABELS, source, ALGORITHM)
        uids.append(pydicom.dcmread(path).SOPInstanceUID)
    assert len(set(uids)) == 6


def test_a_series_of_two_uids_has_none_to_quote(tmp_path, phantom):
    source = phantom().edit(lambda dataset, _: setattr(dataset, "SeriesInstanceUID", ["1.2.3", "1.2.4"])).source
    mask = Mask(blobs(), read_series(source).grid)
    with pytest.raises(SeriesError) as caught:
        write_dicom_seg(tmp_path / "segmentation.dcm", mask, LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.NO_IDENTITY


def test_a_code_of_eighteen_digits_is_whole(tmp_path, phantom):
    code = {"value": "123456781000119107", "meaning": "Structure of an extension of SNOMED CT"}
    labels = LabelMap.parse({"labels": [{"value": 3, "name": "gland", "code": code}]})
    source = phantom().source
    volume = read_series(source)
    mask = Mask(np.uint8(3) * (blobs() == 3), volume.grid)
    write_dicom_seg(tmp_path / "segmentation.dcm", mask, labels, source, ALGORITHM)
    write_rtstruct(tmp_path / "contours.dcm", mask, labels, source, ALGORITHM)
    written = pydicom.dcmread(tmp_path / "segmentation.dcm").SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    drawn = pydicom.dcmread(tmp_path / "contours.dcm").RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
    assert written.LongCodeValue == drawn.LongCodeValue == code["value"]
    assert code["value"] in read_dicom_seg(tmp_path / "segmentation.dcm").segments[0].terminology
