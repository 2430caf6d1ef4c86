"""Files: names, numbers, copies and things beside the scan that say nothing about where a slice lies."""

from __future__ import annotations

import os
from pathlib import Path
from unicodedata import normalize

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from pitfalls.registry import Truth, pitfall
from pitfalls.slices import SLICES, copy_of, make_slices, sound, truth_of, write

SHUFFLED = np.random.default_rng(0).permutation(SLICES)


@pitfall("right", studied=True)
def no_extension(folder: Path) -> list[Truth]:
    """The files have no extension."""
    return sound(folder, make_slices(), [f"IM{number}" for number in range(SLICES)])


@pitfall("right", studied=True)
def shuffled_names(folder: Path) -> list[Truth]:
    """The order of the file names is not that of the slices."""
    return sound(folder, make_slices(), [f"{number:04d}.dcm" for number in SHUFFLED])


@pitfall("right", studied=True)
def reversed_numbers(folder: Path) -> list[Truth]:
    """InstanceNumber runs against the slices."""
    slices = make_slices()
    for number, each in enumerate(slices):
        each.InstanceNumber = len(slices) - number
    return sound(folder, slices)


@pitfall("right", studied=True)
def numbers_not_spatial(folder: Path) -> list[Truth]:
    """InstanceNumber has nothing to do with the place of a slice."""
    slices = make_slices()
    for number, each in zip(SHUFFLED, slices, strict=True):
        each.InstanceNumber = int(number) + 1
    return sound(folder, slices)


@pitfall("right", studied=True)
def numbers_missing(folder: Path) -> list[Truth]:
    """InstanceNumber is missing."""
    slices = make_slices()
    for each in slices:
        del each.InstanceNumber
    return sound(folder, slices)


@pitfall("right")
def numbers_all_alike(folder: Path) -> list[Truth]:
    """Every slice has InstanceNumber 1, and SliceLocation runs backwards."""
    slices = make_slices()
    for number, each in enumerate(slices):
        each.InstanceNumber, each.SliceLocation = 1, -number
    return sound(folder, slices)


@pitfall("right", studied=True)
def junk_files(folder: Path) -> list[Truth]:
    """Notes, pictures and noise lie among the slices, some of them named like DICOM."""
    truth = sound(folder, make_slices())
    (folder / "readme.txt").write_text("not a scan")
    (folder / "notes.dcm").write_bytes(b"not a scan, whatever its name says")
    (folder / "noise.dcm").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "Thumbs.db").write_bytes(bytes(512))
    return truth


@pitfall("right", studied=True)
def nested_folders(folder: Path) -> list[Truth]:
    """The slices of one series are spread over folders in folders."""
    return sound(folder, make_slices(), [f"{number % 3}/{number % 2}/{number:04d}.dcm" for number in range(SLICES)])


@pitfall("right", studied=True)
def duplicate_files(folder: Path) -> list[Truth]:
    """Every slice is there twice: the export was copied into itself."""
    slices = make_slices()
    write(folder, slices, [f"copy of {number + 1:04d}.dcm" for number in range(SLICES)])
    return sound(folder, slices)


@pitfall("right")
def half_copied_with_new_uids(folder: Path) -> list[Truth]:
    """Half of the slices are there twice, their copies under instance UIDs of their own."""
    slices = make_slices()
    write(folder / "copy", copy_of(slices[::2], "copy"))
    return sound(folder, slices)


@pitfall("right")
def zero_byte_file(folder: Path) -> list[Truth]:
    """An empty file named like a slice lies among the slices."""
    truth = sound(folder, make_slices())
    (folder / "0013.dcm").touch()
    return truth


@pitfall("right")
def dicomdir_beside(folder: Path) -> list[Truth]:
    """A DICOMDIR that names slices which are gone lies beside the scan."""
    directory = copy_of(make_slices(count=1))[0]
    directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.FileSetID, directory.DirectoryRecordSequence = "GONE", []
    for number in range(SLICES):
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["IMAGES", f"IM{number}"]
        directory.DirectoryRecordSequence.append(record)
    write(folder, [directory], ["DICOMDIR"])
    return sound(folder, make_slices())


@pitfall("right")
def hostile_names(folder: Path) -> list[Truth]:
    """Two series are mixed in nested folders whose names are commands, formulas, markup and foreign scripts."""
    names = ["=HYPERLINK(1)", "<script>x", "..;rm -rf ~", "%00%2e%2e", "-rf", "患者", "Ärztin\n1", "\x1b[31mred"]
    first, second = make_slices("first"), make_slices("second", directions=((0, 1, 0), (0, 0, 1)))
    for number, pair in enumerate(zip(first, second, strict=True)):
        place = folder / names[number % 8] / normalize("NFD", names[(number + 3) % 8])
        write(place, pair, [f"{number} .dcm", f"-{number}"])
    return [truth_of(first), truth_of(second)]


@pitfall("right")
def link_loops(folder: Path) -> list[Truth]:
    """Links lead to the folder above, to themselves, nowhere, and to every slice once more."""
    truth = sound(folder / "scan", make_slices())
    for link, target in {"up": "..", "self": "self", "gone": "nowhere.dcm", "again": "."}.items():
        os.symlink(target, folder / "scan" / link)
    for path in sorted((folder / "scan").glob("*.dcm")):
        os.symlink(path.name, folder / "scan" / f"link {path.name}")
    return truth


@pitfall("NOT_DICOM")
def implicit_without_preamble(folder: Path) -> list[Truth]:
    """The files start with their data set: no preamble, no word DICM, no transfer syntax, implicit VR."""
    slices = make_slices()
    for number, each in enumerate(slices):
        del each.file_meta
        each.save_as(folder / f"{number:04d}.dcm", implicit_vr=True, little_endian=True)
    return [truth_of(slices)]


@pitfall("right")
def meta_without_preamble(folder: Path) -> list[Truth]:
    """The files lack the 128 bytes and the word DICM before the file meta information."""
    slices = make_slices()
    truth = sound(folder, slices)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    return truth


@pitfall("right")
def pretends_to_be_nifti_beside(folder: Path) -> list[Truth]:
    """A slice of another series is named scan.nii, as if it were a volume."""
    write(folder, make_slices("other", count=1), ["scan.nii"])
    return sound(folder, make_slices())


@pitfall("right")
def uids_blank(folder: Path) -> list[Truth]:
    """An export blanked every UID, the kind of object's included."""
    slices = make_slices()
    for each in slices:
        for keyword in (
            "SOPClassUID",
            "SOPInstanceUID",
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "FrameOfReferenceUID",
        ):
            setattr(each, keyword, "")
        each.file_meta.MediaStorageSOPClassUID = each.file_meta.MediaStorageSOPInstanceUID = ""
        each.save_as(folder / f"{each.InstanceNumber:04d}.dcm", enforce_file_format=False)
    return [truth_of(slices)]


@pitfall("right")
def foreign_characters(folder: Path) -> list[Truth]:
    """Names are in a character set that the file does not name rightly."""
    slices = make_slices()
    for each in slices:
        each.add_new("PatientComments", "UN", "患者 Ärztin".encode("utf-16"))
        each.add_new("SeriesDescription", "UN", "頭部".encode("shift_jis"))
        each.add_new("SpecificCharacterSet", "UN", b"ISO_IR 999")
    return sound(folder, slices)


@pitfall("right")
def long_header(folder: Path) -> list[Truth]:
    """A private element of 100 kB and sequences within sequences stand before the pixels."""
    slices = make_slices()
    for each in slices:
        nested = Dataset()
        for _ in range(30):
            outer = Dataset()
            outer.ReferencedImageSequence = [nested]
            nested = outer
        each.ReferencedImageSequence = [nested]
        block = each.private_block(0x29, "MEDSEG PHANTOM", create=True)
        block.add_new(0x10, "OB", bytes(100_000))
    return sound(folder, slices)


@pitfall("right")
def padded_at_the_end(folder: Path) -> list[Truth]:
    """Something follows the pixels: the trailing padding that the standard allows."""
    slices = make_slices()
    for each in slices:
        each.DataSetTrailingPadding = bytes(3000)
    return sound(folder, slices)
