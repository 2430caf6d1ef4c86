"""Segmentations for 3D Slicer, read back by slicerio and SimpleITK; names inside NIfTI masks and tables."""

from __future__ import annotations

import csv
import gzip
import re
import xml.etree.ElementTree as ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from medseg.errors import OutputError, ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.io import slicer
from medseg.io.label_tables import CSV_COLUMNS, write_colour_csv, write_colour_table
from medseg.io.nifti import read_mask, write_mask, write_volume
from medseg.io.nrrd import write_volume_nrrd
from medseg.io.slicer import Segment, read_seg_nrrd, write_seg_nrrd
from medseg.labels import LabelMap
from medseg.volume import Mask, Source, Volume

slicerio = pytest.importorskip("slicerio", reason="slicerio, from the dev extra, reads .seg.nrrd files back")

LABELS = LabelMap.parse(
    {
        "labels": [
            {"value": 2, "name": "kidney_left", "code": {"value": "64033007", "meaning": "Kidney"}},
            {"value": 5, "name": "Leber größer", "colour": (1, 128, 255)},
            {"value": 9, "name": "mass", "lesion": True, "code": {"value": "4147007", "meaning": "Mass"}},
        ]
    }
)


def affine_of(kind: str) -> np.ndarray:
    affine = np.diag([0.8, 1.25, 3.0, 1.0])
    affine[:3, 3] = -33.3, 17.25, 901.0
    turn = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    changes = {
        "axial": np.diag([-1.0, -1, 1]),
        "ras": np.eye(3),
        "sagittal": np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]),
        "oblique": turn,
        "flipped": turn @ np.diag([1, -1, -1.0]),
        "sheared": turn @ np.array([[1, 0.1, 0.3], [0, 1, 0.2], [0, 0, 1]]),
    }
    affine[:3, :3] = changes[kind] @ affine[:3, :3]
    return affine


def make_mask(kind: str = "axial", dtype: type = np.uint8, shape: tuple[int, int, int] = (11, 9, 5)) -> Mask:
    rng = np.random.default_rng(3)
    return Mask(rng.choice([0, 2, 5], shape).astype(dtype), Grid(shape, affine_of(kind)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["axial", "ras", "sagittal", "oblique", "flipped", "sheared"])
def test_other_programs_read_what_was_written(tmp_path, kind, dtype):
    mask = make_mask(kind, dtype)
    path = tmp_path / "mask.seg.nrrd"
    write_seg_nrrd(path, mask, LABELS)

    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), mask.array)
    index = [3.0, 4.0, 2.0]
    world = np.diag([-1, -1, 1, 1]) @ mask.grid.affine @ [*index, 1]
    assert image.TransformContinuousIndexToPhysicalPoint(index) == pytest.approx(world[:3], abs=1e-9)

    read = slicerio.read_segmentation(str(path))
    assert np.array_equal(read["voxels"], mask.array)
    np.testing.assert_allclose(read["ijkToLPS"], np.diag([-1, -1, 1, 1]) @ mask.grid.affine, atol=1e-12)
    assert [(s["id"], s["labelValue"], s["layer"]) for s in read["segments"]] == [
        ("Segment_2", 2, 0), ("Segment_5", 5, 0), ("Segment_9", 9, 0),
    ]  # fmt: skip
    assert read["segments"][0]["name"] == "kidney_left"
    np.testing.assert_allclose(read["segments"][1]["color"], np.array([1, 128, 255]) / 255, atol=1e-6)
    assert [s["extent"] for s in read["segments"]] == [[0, 10, 0, 8, 0, 4]] * 3
    assert {s["status"] for s in read["segments"]} == {"notstarted"}
    kidney, mass = read["segments"][0]["terminology"], read["segments"][2]["terminology"]
    assert kidney["category"] == ["SCT", "123037004", "Anatomical Structure"]
    assert kidney["type"] == ["SCT", "64033007", "Kidney"]
    assert kidney["typeModifier"] == ["SCT", "7771000", "Left"]
    assert mass["category"] == ["SCT", "49755003", "Morphologically Altered Structure"]
    assert "typeModifier" not in mass
    assert "terminology" not in read["segments"][1]


@pytest.mark.parametrize("kind", ["axial", "oblique", "sheared"])
def test_it_comes_back_as_it_was(tmp_path, kind):
    path, mask = tmp_path / "mask.seg.nrrd", make_mask(kind)
    write_seg_nrrd(path, mask, LABELS)
    found = read_seg_nrrd(path)
    assert np.array_equal(found.mask.array, mask.array)
    np.testing.assert_allclose(found.mask.grid.affine, mask.grid.affine, atol=1e-12)
    assert found.segments[1] == Segment("Segment_5", "Leber größer", 5, (1, 128, 255), "notstarted", "")
    assert [segment.value for segment in found.segments] == [2, 5, 9]
    assert found.segments[0].terminology.startswith("Segmentation category and type - 3D Slicer General Anatomy list~")


def test_equal_masks_give_equal_files_and_slicer_knows_them_by_their_first_bytes(tmp_path):
    for name in ("a.seg.nrrd", "b.seg.nrrd"):
        write_seg_nrrd(tmp_path / name, make_mask(), LABELS)
    content = (tmp_path / "a.seg.nrrd").read_bytes()
    assert content == (tmp_path / "b.seg.nrrd").read_bytes()
    assert b"Segmentation_" in content[:800]
    assert b"Segment0_ID:=" in content[:800]


def test_one_slice_stays_three_dimensional(tmp_path):
    mask = make_mask(shape=(7, 6, 1))
    write_seg_nrrd(tmp_path / "mask.seg.nrrd", mask, LABELS)
    assert sitk.ReadImage(str(tmp_path / "mask.seg.nrrd")).GetSize() == (7, 6, 1)


def test_what_slicer_writes_is_read(tmp_path):
    """slicerio writes as Slicer does: another order of keys, tags and spaces."""
    mask = make_mask("oblique")
    write_seg_nrrd(tmp_path / "a.seg.nrrd", mask, LABELS)
    segmentation = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    slicerio.write_segmentation(str(tmp_path / "b.seg.nrrd"), segmentation)
    found = read_seg_nrrd(tmp_path / "b.seg.nrrd")
    assert np.array_equal(found.mask.array, mask.array)
    assert found.mask.grid.matches(mask.grid)
    assert [(s.id, s.value, s.status) for s in found.segments] == [
        ("Segment_2", 2, "notstarted"), ("Segment_5", 5, "notstarted"), ("Segment_9", 9, "notstarted"),
    ]  # fmt: skip


def as_slicer_wrote(path, layers, pairs):
    """Write layers (L, X, Y, Z) with the list axis first, as Slicer does where segments overlap."""
    sizes = " ".join(map(str, layers.shape))
    kind = {"uint8": "unsigned char", "int16": "short", "uint32": "unsigned int"}[layers.dtype.name]
    lines = [
        "NRRD0004", f"type: {kind}", "dimension: 4", "space: left-posterior-superior", f"sizes: {sizes}",
        "space directions: none (1,0,0) (0,2,0) (0,0,3)", "kinds: list domain domain domain", "endian: little",
        "encoding: raw", "space origin: (5,6,7)", *(f"{key}:={value}" for key, value in pairs.items()),
    ]  # fmt: skip
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + layers.tobytes(order="F"))


def segment_pairs(number, name, **more):
    start = f"Segment{number}_"
    return {f"{start}ID": f"S{number}", f"{start}Name": name, f"{start}Color": "1 0 0"} | {
        start + key: value for key, value in more.items()
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32])
def test_overlapping_segments_are_read_from_their_layers(tmp_path, dtype):
    layers = np.zeros((2, 3, 4, 5), dtype)
    layers[0, :2], layers[1, 1:] = 7, 1
    pairs = segment_pairs(0, "organ", Layer=0, LabelValue=7, Tags="Segmentation.Status:completed|own:x|")
    as_slicer_wrote(tmp_path / "a.seg.nrrd", layers, pairs | segment_pairs(1, "lesion"))  # layer 1, value 1
    found = read_seg_nrrd(tmp_path / "a.seg.nrrd")
    organ, lesion = found.segments
    assert (organ.status, organ.tags, lesion.layer, lesion.value) == ("completed", {"own": "x"}, 1, 1)
    assert np.array_equal(found.region(organ), layers[0] == 7)
    assert np.array_equal(found.region(lesion), layers[1] == 1)
    np.testing.assert_allclose(found.grid.affine, np.diag([-1.0, -2, 3, 1]) + np.outer([-5, -6, 7, 0], [0, 0, 0, 1]))
    with pytest.raises(ScanError, match="overlap") as caught:
        _ = found.mask
    assert caught.value.code == ReasonCode.NOT_3D
    other = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    assert np.array_equal(np.asarray(other["voxels"]), layers)


@pytest.mark.parametrize(
    ("layers", "pairs", "code"),
    [
        (np.zeros((1, 2, 2, 2), np.uint8), segment_pairs(0, "a", Layer=1), ReasonCode.UNREADABLE),
        (np.zeros((1, 2, 2, 2), np.uint8), segment_pairs(0, "a", Layer=-1), ReasonCode.UNREADABLE),
        (np.full((1, 2, 2, 2), -3, np.int16), segment_pairs(0, "a"), ReasonCode.UNSUPPORTED_PIXELS),
        (np.full((1, 2, 2, 2), 70000, np.uint32), segment_pairs(0, "a"), ReasonCode.UNSUPPORTED_PIXELS),
    ],
)
def test_layers_that_can_not_be_are_refused(tmp_path, layers, pairs, code):
    as_slicer_wrote(tmp_path / "a.seg.nrrd", layers, pairs)
    with pytest.raises(ScanError) as caught:
        read_seg_nrrd(tmp_path / "a.seg.nrrd")
    assert caught.value.code == code


@pytest.mark.parametrize("values", [np.arange(60) - 30.0, np.linspace(-1, 1, 60), np.arange(60) + 40000.0])
@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_scans_are_read_by_itk_as_they_were(tmp_path, kind, values):
    array = values.astype(np.float32).reshape(1, 3, 4, 5)
    volume = Volume(array, Grid((3, 4, 5), affine_of(kind)))
    write_volume_nrrd(tmp_path / "scan.nrrd", volume)
    image = sitk.ReadImage(str(tmp_path / "scan.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), array[0])
    world = np.diag([-1, -1, 1, 1]) @ volume.grid.affine @ [2, 3, 4, 1]
    assert image.TransformIndexToPhysicalPoint([2, 3, 4]) == pytest.approx(world[:3], abs=1e-9)


def test_hostile_names_stay_within_their_line(tmp_path):
    name = "a\nSegment0_ID:=evil\n|x:y\\n\t=1"
    labels = LabelMap.parse(
        {"labels": [{"value": 1, "name": name, "code": {"value": "1~|^:2", "meaning": "a|b:c~d^e"}}]}
    )
    write_seg_nrrd(tmp_path / "mask.seg.nrrd", Mask(np.ones((2, 3, 4), np.uint8), Grid((2, 3, 4), np.eye(4))), labels)
    (segment,) = read_seg_nrrd(tmp_path / "mask.seg.nrrd").segments
    assert segment.id == "Segment_1"
    assert segment.name == "a Segment0_ID:=evil |x:y\\n =1"
    assert segment.terminology.split("~")[2] == "SCT^1    2^a b c d e"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: b"solid" + raw, ReasonCode.NOT_A_SCAN),
        (lambda raw: raw[:150], ReasonCode.UNREADABLE),
        (lambda raw: raw[:-30], ReasonCode.TRUNCATED),
        (lambda raw: raw[:-4] + b"\0\0\0\0", ReasonCode.UNREADABLE),
        (lambda raw: raw.replace(b"sizes: 11 9 5", b"sizes: 11 9 4"), ReasonCode.UNREADABLE),
        (lambda raw: raw.replace(b"sizes: 11 9 5", b"sizes: 11 9 6"), ReasonCode.TRUNCATED),
        (lambda raw: raw.replace(b"sizes: 11 9 5", b"sizes: 99999 99999 99999"), ReasonCode.UNREADABLE),
        (lambda raw: raw.replace(b"sizes: 11 9 5", b"sizes: 11 nine 5"), ReasonCode.UNREADABLE),
        (lambda raw: raw.replace(b"dimension: 3", b"dimension: 4"), ReasonCode.NOT_3D),
        (lambda raw: raw.replace(b"unsigned char", b"double"), ReasonCode.UNSUPPORTED_PIXELS),
        (lambda raw: raw.replace(b"encoding: gzip", b"encoding: bzip2"), ReasonCode.UNREADABLE),
        (lambda raw: raw.replace(b"Segment1_LabelValue:=5", b"Segment1_LabelValue:="), ReasonCode.UNREADABLE),
        (lambda raw: re.sub(rb"Segment1_Color:=\S+", b"Segment1_Color:=inf", raw), ReasonCode.UNREADABLE),
        (lambda raw: raw.replace(b"(0.8,", b"(0.0,"), ReasonCode.BAD_ORIENTATION),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, code):
    path = tmp_path / "mask.seg.nrrd"
    write_seg_nrrd(path, make_mask(), LABELS)
    changed = change(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(ScanError) as caught:
        read_seg_nrrd(path)
    assert caught.value.code == code


def test_a_bomb_is_not_inflated(tmp_path):
    path = tmp_path / "mask.seg.nrrd"
    write_seg_nrrd(path, make_mask(), LABELS)
    head = path.read_bytes().partition(b"\n\n")[0]
    path.write_bytes(head + b"\n\n" + gzip.compress(bytes(200 << 20)))
    with pytest.raises(ScanError, match="more voxels than its header says"):
        read_seg_nrrd(path)


def test_a_wrong_byte_on_the_disk_is_noticed(tmp_path, monkeypatch):
    right = slicer.read_seg_nrrd

    def wrong(path):
        found = right(path)
        layers = found.layers.copy()
        layers[0, 0, 0, 0] ^= 1
        return slicer.Segmentation(layers, found.grid, found.segments)

    monkeypatch.setattr(slicer, "read_seg_nrrd", wrong)
    with pytest.raises(OutputError, match="reads back differently"):
        write_seg_nrrd(tmp_path / "mask.seg.nrrd", make_mask(), LABELS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_nifti_masks_carry_names_as_totalsegmentator_writes_them(tmp_path, name):
    mask = make_mask("oblique")
    write_volume(tmp_path / "scan.nii.gz", Volume(mask.array[None].astype(np.float32), mask.grid))
    labels = LabelMap.parse({"spleen": 1, "a ]]> & <b>": 2, "größer": 5})
    write_mask(tmp_path / name, mask, Source("nifti", (tmp_path / "scan.nii.gz",)), labels)
    image = nib.load(tmp_path / name)
    assert np.array_equal(np.asarray(image.dataobj), mask.array)
    assert np.array_equal(read_mask(tmp_path / name).array, mask.array)
    (extension,) = image.header.extensions
    assert extension.get_code() == 0
    tree = ElementTree.fromstring(extension.get_content())
    found = {label.get("Key"): label.text for label in tree.findall("VolumeInformation/LabelTable/Label")}
    assert found == {"1": "spleen", "2": "a ]]> & <b>", "5": "größer"}
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))).transpose(2, 1, 0), mask.array)


def test_the_extension_is_totalsegmentators_to_the_byte(tmp_path):
    mask = make_mask()
    write_volume(tmp_path / "scan.nii.gz", Volume(mask.array[None].astype(np.float32), mask.grid))
    labels = LabelMap.parse({"labels": [{"value": 1, "name": "spleen", "colour": (0, 255, 0)}]})
    write_mask(tmp_path / "mask.nii", mask, Source("nifti", (tmp_path / "scan.nii.gz",)), labels)
    expected = (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>   '
        '<VolumeInformation Index="0">   <LabelTable>\n'
        '<Label Key="1" Red="0" Green="1" Blue="0" Alpha="1"><![CDATA[spleen]]></Label>\n'
        "  </LabelTable>  <StudyMetaDataLinkSet>  </StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>"
        "   </VolumeInformation></CaretExtension>"
    )
    assert nib.load(tmp_path / "mask.nii").header.extensions[0].get_content().rstrip() == expected.encode()


def test_a_mask_without_labels_has_no_extension(tmp_path):
    mask = make_mask()
    write_volume(tmp_path / "scan.nii.gz", Volume(mask.array[None].astype(np.float32), mask.grid))
    write_mask(tmp_path / "mask.nii.gz", mask, Source("nifti", (tmp_path / "scan.nii.gz",)))
    assert not nib.load(tmp_path / "mask.nii.gz").header.extensions


def test_colour_tables_name_the_labels(tmp_path):
    labels = LabelMap.parse({"labels": [*LABELS.model_dump()["labels"], {"value": 11, "name": '=cmd|"a",b c'}]})
    write_colour_csv(tmp_path / "labels.csv", labels)
    text = (tmp_path / "labels.csv").read_text(encoding="utf-8")
    assert '"' not in text  # Slicer does not read quoted cells
    rows = list(csv.DictReader(text.splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [rows[0][key] for key in ("LabelValue", "Name", "Type_CodeValue", "TypeModifier_CodeMeaning")] == [
        "2", "kidney_left", "64033007", "Left",
    ]  # fmt: skip
    assert (rows[1]["Color_R"], rows[1]["Color_G"], rows[1]["Color_B"], rows[1]["Color_A"]) == (
        "1",
        "128",
        "255",
        "255",
    )
    assert rows[2]["Category_CodeValue"] == "49755003"
    assert rows[3]["Name"] == "'=cmd| a  b c"

    write_colour_table(tmp_path / "labels.ctbl", labels)
    lines = (tmp_path / "labels.ctbl").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["# Color table file labels.ctbl", "# 5 values", "0 background 0 0 0 0"]
    assert [len(line.split()) for line in lines[2:]] == [6] * 5
    assert lines[4] == "5 Leber_größer 1 128 255 255"
