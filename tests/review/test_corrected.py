"""Masks that reviewers hand in come to the scan's grid exactly, or are refused with the reason."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.geometry import Grid, Orientation
from medseg.io.dicom_seg import Algorithm, write_dicom_seg
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.dicom_write import write_series
from medseg.io.nifti import write_volume
from medseg.io.slicer import Segment, read_seg_nrrd
from medseg.labels import LabelMap
from medseg.review.corrected import Terms, read_corrected
from medseg.review.folder import CASE_TAG
from medseg.review.refusal import Refusal, ReviewError
from medseg.volume import Mask, Volume

from .conftest import LABELS, SHAPE, affine_of, make_mask, segments_of, write_layers

slicerio = pytest.importorskip("slicerio", reason="slicerio, from the dev extra, writes .seg.nrrd files as Slicer does")

PLAIN, FINAL = Terms(), Terms(is_final=True)


def corrected_of(mask: Mask) -> Mask:
    """A reviewer's work: the liver is larger, the tumour smaller, the right kidney gone."""
    array = mask.array.copy()
    array[1, 2:8, 2:7] = 1
    array[4, 4:6, 3:5] = 1
    array[array == 3] = 0
    return Mask(array, mask.grid)


def read(path, review, case="alpha", terms=PLAIN) -> np.ndarray:
    entry = review.case(case)
    return read_corrected(path, entry, review.labels, review.prediction(entry), terms).array


def refusal(path, review, case="alpha", terms=PLAIN) -> ReviewError:
    with pytest.raises(ReviewError) as caught:
        read(path, review, case, terms)
    assert str(caught.value).startswith(f"{case}: ")
    return caught.value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_any_crop_turn_layers_and_order_of_segments_come_back(data, review, tmp_path):
    """What Slicer and its extensions do to a file changes nothing of what it says."""
    draw = data.draw
    truth = corrected_of(make_mask(0))
    occupied = [np.flatnonzero(truth.array.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low = [draw(st.integers(-1, int(places[0]))) for places in occupied]
    high = [draw(st.integers(int(places[-1]) + 1, size + 1)) for places, size in zip(occupied, SHAPE, strict=True)]
    cut = tuple(slice(a + 1, b + 1) for a, b in zip(low, high, strict=True))
    array = np.pad(truth.array, 1)[cut]
    turn = Orientation(draw(st.permutations(range(3)).map(tuple)), draw(st.tuples(*[st.booleans()] * 3)))
    grid = turn.apply_to_grid(truth.grid.cropped(low, array.shape))
    array = turn.apply(array)

    layers = np.zeros((draw(st.integers(1, 4)), *array.shape), draw(st.sampled_from([np.uint8, np.int16])))
    numbers = draw(st.permutations([1, 2, 3, 4]))  # Slicer gives values anew, layer by layer
    segments = []
    for segment, number in zip(segments_of(), numbers, strict=True):
        layer = draw(st.integers(0, len(layers) - 1))
        layers[layer][array == segment.value] = number
        if segment.name == "liver":  # it runs on below its tumour, which is drawn over it in whichever layer
            layers[layer][array == 4] = number
        segments.append(replace(segment, value=number, layer=layer))
    path = write_layers(tmp_path / "alpha.seg.nrrd", layers, grid, draw(st.permutations(segments)))
    assert np.array_equal(read(path, review), truth.array)


def test_what_slicer_crops_is_padded_again(review, tmp_path):
    truth = corrected_of(make_mask(0))
    box = (slice(1, 13), slice(1, 8), slice(2, 7))
    path = write_layers(
        tmp_path / "alpha.seg.nrrd",
        truth.array[box][None],
        truth.grid.cropped((1, 1, 2), (12, 7, 5)),
        list(reversed(segments_of())),
    )
    assert np.array_equal(read(path, review), truth.array)


def test_what_slicerio_writes_is_read(review, tmp_path):
    """slicerio orders keys, tags and spaces as Slicer does, and drops nothing."""
    segmentation = slicerio.read_segmentation(str(review.path / "masks" / "alpha.seg.nrrd"))
    for segment in segmentation["segments"]:
        segment["status"] = "completed"
    slicerio.write_segmentation(str(tmp_path / "alpha.seg.nrrd"), segmentation)
    assert np.array_equal(read(tmp_path / "alpha.seg.nrrd", review), make_mask(0).array)
    assert read_seg_nrrd(tmp_path / "alpha.seg.nrrd").segments[0].tags[CASE_TAG] == "alpha"


def test_what_itk_writes_as_nifti_is_read(review, tmp_path):
    image = sitk.ReadImage(str(review.path / "masks" / "alpha.seg.nrrd"))
    sitk.WriteImage(sitk.Flip(image, [True, False, True]), str(tmp_path / "alpha.nii.gz"))
    assert np.array_equal(read(tmp_path / "alpha.nii.gz", review), make_mask(0).array)


def test_a_lesion_may_overlap_its_organ_and_nothing_else_may(review, tmp_path):
    mask = make_mask(0)
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0] = np.where(mask.array == 4, 1, mask.array)
    layers[1][mask.array == 4] = 4
    segments = segments_of()
    segments[3] = replace(segments[3], layer=1)
    path = write_layers(tmp_path / "alpha.seg.nrrd", layers, mask.grid, segments[::-1])
    assert np.array_equal(read(path, review), mask.array)

    segments[1] = replace(segments[1], layer=1)
    layers[1][2:4, 2, 2] = 2
    write_layers(path, layers, mask.grid, segments)
    error = refusal(path, review)
    assert error.code == Refusal.OVERLAP
    assert "2 voxels belong to both 'kidney_left' and 'liver'" in str(error)


def test_an_emptied_segmentation_is_empty(review, tmp_path):
    """Slicer saves one voxel where nothing is left."""
    path = tmp_path / "alpha.seg.nrrd"
    write_layers(path, np.zeros((1, 1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)), segments_of())
    assert read(path, review).shape == SHAPE
    assert not read(path, review).any()


def with_segment(position: int, **changes: object) -> list[Segment]:
    segments = segments_of()
    segments[position] = replace(segments[position], **changes)
    return segments


@pytest.mark.parametrize(
    ("segments", "code", "words"),
    [
        (with_segment(0, name="cyst", id="S", terminology=""), Refusal.UNKNOWN_SEGMENT, "'cyst' is none of the labels"),
        (with_segment(0, name="cyst"), Refusal.RENAMED_SEGMENT, "'cyst' has the identity of 'liver'"),
        (with_segment(1, name="kidney_right"), Refusal.RENAMED_SEGMENT, "identity of 'kidney_left'"),
        (with_segment(0, id="Segment_3"), Refusal.RENAMED_SEGMENT, "identity of 'kidney_right'"),
        (
            with_segment(2, name="kidney_left", id="x", terminology=segments_of()[1].terminology),
            Refusal.REPEATED_SEGMENT,
            "two segments are kidney_left",
        ),
        (segments_of()[:3], Refusal.MISSING_SEGMENT, "no segment called 'tumour'"),
        (with_segment(3, status="inprogress"), Refusal.UNFINISHED, "1 of 4 segments"),
        (with_segment(3, status="flagged"), Refusal.UNFINISHED, "'tumour': flagged"),
        (with_segment(3, status=""), Refusal.UNFINISHED, "not stated"),
        (segments_of(**{CASE_TAG: "beta"}), Refusal.OTHER_CASE, "made from case beta"),
    ],
)
def test_wrong_segments_are_refused(review, tmp_path, segments, code, words):
    mask = make_mask(0)
    error = refusal(write_layers(tmp_path / "alpha.seg.nrrd", mask.array[None], mask.grid, segments), review)
    assert error.code == code
    assert words in str(error)


@pytest.mark.parametrize(
    ("segments", "terms"),
    [
        (with_segment(0, name="LIVER "), Terms()),
        (with_segment(1, name="kidney left", id="Segment_77"), Terms()),
        (with_segment(0, name="cyst"), Terms(renamed={"cyst": "liver"})),
        (with_segment(3, status="inprogress"), FINAL),
        ([*segments_of(), Segment("Segment_5", "Segment_5", 9, (1, 2, 3))], Terms()),  # empty: added and never used
    ],
)
def test_what_means_the_same_is_taken(review, tmp_path, segments, terms):
    mask = make_mask(0)
    path = write_layers(tmp_path / "alpha.seg.nrrd", mask.array[None], mask.grid, segments)
    assert np.array_equal(read(path, review, terms=terms), mask.array)


def test_other_grids_are_refused(review, tmp_path):
    mask = make_mask(0)
    shifted = mask.grid.affine.copy()
    shifted[:3, 3] += 0.7
    path = tmp_path / "alpha.seg.nrrd"
    write_layers(path, mask.array[None], Grid(SHAPE, shifted), segments_of())
    assert refusal(path, review).code == Refusal.OFF_GRID
    wide = np.ones((1, 16, 12, 9), np.uint8)
    write_layers(path, wide, mask.grid.cropped((-1, 0, 0), (16, 12, 9)), segments_of())
    assert refusal(path, review).code == Refusal.OUTSIDE_SCAN
    write_volume(tmp_path / "alpha.nii.gz", Volume(mask.array[None].astype(np.float32), Grid(SHAPE, shifted)))
    assert refusal(tmp_path / "alpha.nii.gz", review).code == Refusal.OFF_GRID


@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
def test_a_nifti_mask_that_lost_the_scans_place_is_refused(review, tmp_path, flips):
    """As of a program that writes its own origin: by chance it lies on the scan's lattice, whole voxels beside it."""
    path, mask, turn = tmp_path / "alpha.nii.gz", make_mask(0), Orientation((0, 1, 2), flips)
    turned = turn.apply(mask.array)[None].astype(np.float32)
    write_volume(path, Volume(turned, turn.apply_to_grid(mask.grid)))
    assert np.array_equal(read(path, review), mask.array)
    write_volume(path, Volume(turned, turn.apply_to_grid(mask.grid.cropped((0, 1, 0), SHAPE))))
    error = refusal(path, review)
    assert error.code == Refusal.OFF_GRID
    assert "the scan's size, but not its place" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("alpha.seg.nrrd", b"NRRD0004\ntype: unsigned char\n", Refusal.UNREADABLE),
        ("alpha.seg.nrrd", b"", Refusal.UNREADABLE),
        ("alpha.nii.gz", gzip.compress(b"no scan"), Refusal.UNREADABLE),
        ("alpha.dcm", b"no DICOM", Refusal.UNREADABLE),
        ("alpha.mha", b"ObjectType = Image", Refusal.UNREADABLE),
    ],
    ids=["header alone", "empty", "gzip of text", "no DICOM", "no MetaImage"],  # gzip holds the time: no name
)
def test_what_is_no_mask_is_refused(review, tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name, review).code == code


def test_a_half_written_file_is_refused(review, tmp_path):
    whole = (review.path / "masks" / "alpha.seg.nrrd").read_bytes()
    path = tmp_path / "alpha.seg.nrrd"
    for size in range(0, len(whole), max(1, len(whole) // 12)):
        path.write_bytes(whole[:size])
        assert refusal(path, review, terms=FINAL).code == Refusal.UNREADABLE


def test_an_extra_segment_with_voxels_is_refused(review, tmp_path):
    mask = make_mask(0)
    array = mask.array.copy()
    array[0, 0, 0] = 9
    extra = [*segments_of(), Segment("Segment_5", "Segment_5", 9, (1, 2, 3), status="completed")]
    error = refusal(write_layers(tmp_path / "alpha.seg.nrrd", array[None], mask.grid, extra), review)
    assert error.code == Refusal.UNKNOWN_SEGMENT
    assert "'Segment_5' is none of the labels" in str(error)


def test_voxels_without_a_segment_are_refused(review, tmp_path):
    """Slicer writes none, and shows none; a program that numbers segments anew may."""
    mask = make_mask(0)
    array = mask.array.copy()
    array[0, 0, :2] = 9
    error = refusal(write_layers(tmp_path / "alpha.seg.nrrd", array[None], mask.grid, segments_of()), review)
    assert error.code == Refusal.UNKNOWN_SEGMENT
    assert "2 voxels belong to no segment" in str(error)


def test_a_nifti_value_without_a_label_is_refused(review, tmp_path):
    mask = make_mask(0)
    array = mask.array.astype(np.float32)
    array[0, 0, 0] = 9
    write_volume(tmp_path / "alpha.nii.gz", Volume(array[None], mask.grid))
    error = refusal(tmp_path / "alpha.nii.gz", review)
    assert error.code == Refusal.UNKNOWN_SEGMENT
    assert "[9]" in str(error)


@pytest.mark.parametrize("kind", ["lps", "oblique", "sagittal"])
def test_dicom_segmentations_are_read_by_their_codes(tmp_path, kind):
    """Written by medseg and highdicom; empty segments are left out and the rest numbered anew."""
    mask = corrected_of(make_mask(0, kind))
    rng = np.random.default_rng(0)
    volume = Volume(rng.integers(0, 90, (1, *SHAPE)).astype(np.float32), mask.grid)
    source = write_series(volume, tmp_path / "series")
    write_dicom_seg(tmp_path / "seg.dcm", mask, LABELS, source, Algorithm("somebody", "1"))
    found = read_dicom_seg(tmp_path / "seg.dcm")
    assert [segment.name for segment in found.segments] == ["liver", "kidney_left", "tumour"]
    assert "64033007" in found.segments[1].terminology
    assert "7771000" in found.segments[1].terminology


@pytest.mark.filterwarnings("ignore:The string")  # highdicom on the phantom's name
def test_overlapping_dicom_segments_lie_in_layers(tmp_path):
    mask = make_mask(0, "lps")
    source = write_series(Volume(np.zeros((1, *SHAPE), np.float32) + mask.array, mask.grid), tmp_path / "series")
    import highdicom as hd
    import pydicom

    write_dicom_seg(tmp_path / "seg.dcm", mask, LABELS, source, Algorithm("somebody", "1"))
    once = hd.seg.segread(tmp_path / "seg.dcm")
    images = [pydicom.dcmread(path) for path in source.files]
    volume = once.get_volume(combine_segments=False)
    array = volume.array.copy()
    array[..., 0] |= array[..., 3]
    both = hd.seg.Segmentation(
        source_images=images,
        pixel_array=volume.with_array(array, channels={"SegmentNumber": [1, 2, 3, 4]}),
        segmentation_type="BINARY",
        segment_descriptions=[once.get_segment_description(n) for n in once.segment_numbers],
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    both.save_as(tmp_path / "both.dcm")
    found = read_dicom_seg(tmp_path / "both.dcm")
    assert len(found.layers) == 4
    sizes = {segment.name: int(found.region(segment).sum()) for segment in found.segments}
    drawn = {label.name: int((mask.array == label.value).sum()) for label in LABELS.labels}
    assert sizes == {**drawn, "liver": drawn["liver"] + drawn["tumour"]}


def test_nested_lesions_are_painted_inside_out(tmp_path):
    labels = LabelMap.parse(
        {
            "labels": [
                {"value": 5, "name": "core", "within": "tumour"},
                {"value": 7, "name": "tumour", "within": "liver"},
                {"value": 9, "name": "liver"},
            ]
        }
    )
    from medseg.review.corrected import _surroundings

    assert _surroundings(labels) == {5: {7, 9}, 7: {9}, 9: set()}


def test_sheared_grids_keep_their_shear(tmp_path):
    mask = make_mask(0, "sheared")
    path = write_layers(tmp_path / "a.seg.nrrd", mask.array[None], Grid(SHAPE, affine_of("sheared")), segments_of())
    assert read_seg_nrrd(path).grid.matches(mask.grid)
