"""Pixels: how they are stored, rescaled, compressed, padded, cut short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from pitfalls.registry import Truth, pitfall, ramp
from pitfalls.slices import make_slices, paint, pixel_positions, sound, truth_of, write

RADIUS_MM = 13.0
"""Of the field of view that a scanner reconstructs, about the middle of the slice."""

ENCODABLE = (32, 32)
"""The smallest image that the encoder of JPEG 2000 takes with its five levels of wavelets."""


@pitfall("right", studied=True)
def rescale_per_slice(folder: Path) -> list[Truth]:
    """Slope and intercept differ from slice to slice, as in PET."""
    slices = make_slices()
    for number, each in enumerate(slices):
        each.SOPClassUID = each.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        each.Modality, each.RescaleSlope, each.RescaleIntercept = "PT", 0.05 * (number + 1), -100 - number
        del each.RescaleType
        paint(each)
    return sound(folder, slices)


@pitfall("right", studied=True)
def unsigned_pixels(folder: Path) -> list[Truth]:
    """Stored values are unsigned."""
    return sound(folder, [_stored(each, PixelRepresentation=0) for each in make_slices()])


@pitfall("right")
def signs_mixed(folder: Path) -> list[Truth]:
    """Some slices store signed values, some unsigned ones beyond the signed range."""
    slices = make_slices()
    for each in slices[::2]:
        _stored(each, PixelRepresentation=0, RescaleIntercept=-40000)
    return sound(folder, slices)


@pitfall("right")
def eight_bits(folder: Path) -> list[Truth]:
    """Values of eight bits are rescaled to HU."""
    layout = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "RescaleIntercept": -20}
    return sound(folder, [_stored(each, **layout) for each in make_slices(count=9)])


@pitfall("right")
def thirty_two_bits(folder: Path) -> list[Truth]:
    """Values of 32 bits are stored."""
    return sound(folder, [_stored(each, BitsAllocated=32, BitsStored=32, HighBit=31) for each in make_slices()])


@pitfall("right")
def garbage_in_high_bits(folder: Path) -> list[Truth]:
    """Twelve bits are used; the four above them hold an old overlay."""
    slices = [_stored(each, BitsStored=12, HighBit=11, PixelRepresentation=0) for each in make_slices()]
    return _with_bits(folder, slices, lambda stored: stored | np.where(np.indices(stored.shape)[1] % 3 == 0, 0x5000, 0))


@pitfall("right")
def sign_in_twelfth_bit(folder: Path) -> list[Truth]:
    """Signed values of twelve bits are stored without extending their sign to the sixteenth."""
    slices = [_stored(each, BitsStored=12, HighBit=11, RescaleIntercept=300) for each in make_slices()]
    return _with_bits(folder, slices, lambda stored: stored & 0x0FFF)


@pitfall("right", studied=True)
def rle(folder: Path) -> list[Truth]:
    """The pixels are compressed with RLE."""
    return _compressed(folder, RLELossless)


@pitfall("right", studied=True)
def jpeg_ls(folder: Path) -> list[Truth]:
    """The pixels are compressed with lossless JPEG-LS."""
    return _compressed(folder, JPEGLSLossless)


@pitfall("right", studied=True)
def jpeg_2000(folder: Path) -> list[Truth]:
    """The pixels are compressed with lossless JPEG 2000."""
    return _compressed(folder, JPEG2000Lossless)


@pitfall("right")
def encodings_mixed(folder: Path) -> list[Truth]:
    """Every slice is encoded in another way."""
    slices = make_slices(size=ENCODABLE)
    for number, each in enumerate(slices):
        if syntax := (None, RLELossless, JPEGLSLossless, JPEG2000Lossless)[number % 4]:
            each.compress(syntax, generate_instance_uid=False)
    return sound(folder, slices)


@pitfall("right")
def big_endian(folder: Path) -> list[Truth]:
    """The files are big endian, a transfer syntax that is retired and still found."""
    slices = make_slices()
    for each in slices:
        each.PixelData = np.frombuffer(each.PixelData, "<i2").astype(">i2").tobytes()
        each.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    return sound(folder, slices)


@pitfall("right")
def implicit_vr(folder: Path) -> list[Truth]:
    """The elements do not state their types (implicit VR)."""
    slices = make_slices()
    for each in slices:
        each.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return sound(folder, slices)


@pitfall("UNREADABLE")
def deflated(folder: Path) -> list[Truth]:
    """The files are deflated, so that their size in memory has no bound."""
    slices = make_slices()
    for each in slices:
        each.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return sound(folder, slices)


@pitfall("DECODE_FAILED")
def unknown_compression(folder: Path) -> list[Truth]:
    """The pixels are compressed as video, which no scan is."""
    slices = make_slices()
    truth = truth_of(slices)
    for each in slices:
        each.compress(RLELossless, generate_instance_uid=False)
        each.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    write(folder, slices)
    return [truth]


@pitfall("DECODE_FAILED")
def damaged_codestream(folder: Path) -> list[Truth]:
    """The compressed pixels of one slice are noise of the right length."""
    truth = _compressed(folder, JPEG2000Lossless)
    path = folder / "0006.dcm"
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start:-8] = np.random.default_rng(0).bytes(len(content) - 8 - start)
    path.write_bytes(content)
    return truth


@pitfall("TRUNCATED", studied=True)
def truncated_file(folder: Path) -> list[Truth]:
    """One file ends in the middle of its pixels."""
    truth = sound(folder, make_slices())
    path = folder / "0006.dcm"
    path.write_bytes(path.read_bytes()[:-400])
    return truth


@pitfall("TRUNCATED")
def cut_before_the_pixels(folder: Path) -> list[Truth]:
    """One file ends where its pixels should begin."""
    slices = make_slices()
    truth = truth_of(slices)
    del slices[5].PixelData
    write(folder, slices)
    return [truth]


@pitfall("right")
def padded_outside(folder: Path) -> list[Truth]:
    """Outside the round field of view stands the padding value -2000, which is not HU."""
    slices = [_stored(each, RescaleIntercept=0) for each in make_slices()]
    for each in slices:
        each.add_new("PixelPaddingValue", "SS", -2000)
    return _padded(folder, slices)


@pitfall("right")
def padded_below_air(folder: Path) -> list[Truth]:
    """Padding is stored as -2000 with an intercept of -1024: -3024 HU."""
    slices = make_slices()
    for each in slices:
        each.add_new("PixelPaddingValue", "SS", -2000)
    return _padded(folder, slices)


@pitfall("right", flags=("MONOCHROME1",))
def monochrome1(folder: Path) -> list[Truth]:
    """A viewer is asked to paint small values white; the values are HU all the same."""
    slices = make_slices()
    for each in slices:
        each.PhotometricInterpretation = "MONOCHROME1"
    return sound(folder, slices)


@pitfall("UNSUPPORTED_PIXELS")
def colour_pixels(folder: Path) -> list[Truth]:
    """The slices are colour pictures."""
    slices = make_slices()
    truth = truth_of(slices)
    for each in slices:
        each.SamplesPerPixel, each.PhotometricInterpretation, each.PlanarConfiguration = 3, "RGB", 0
        each.BitsAllocated = each.BitsStored = 8
        each.HighBit, each.PixelRepresentation = 7, 0
        each.PixelData = bytes(each.Rows * each.Columns * 3)
    write(folder, slices)
    return [truth]


@pitfall("NO_RESCALE")
def rescale_missing(folder: Path) -> list[Truth]:
    """A CT slice does not say how its values become HU."""
    slices = make_slices()
    truth = truth_of(slices)
    del slices[3].RescaleIntercept
    write(folder, slices)
    return [truth]


@pitfall("NO_RESCALE")
def rescale_zero(folder: Path) -> list[Truth]:
    """The slope is 0: every voxel would become the intercept."""
    slices = make_slices()
    for each in slices:
        each.RescaleSlope = 0
    return sound(folder, slices)


@pitfall("right", flags=("HU_SUSPECT",))
def rescale_to_other_units(folder: Path) -> list[Truth]:
    """A dual-energy map of effective atomic numbers calls itself CT; RescaleType says that it is not HU."""
    slices = make_slices()
    for each in slices:
        each.RescaleType, each.RescaleSlope, each.RescaleIntercept = "Z_EFF", 0.01, 0
        paint(each)
    return sound(folder, slices)


def _compressed(folder: Path, syntax: UID) -> list[Truth]:
    slices = make_slices(size=ENCODABLE)
    for each in slices:
        each.compress(syntax, generate_instance_uid=False)
    return sound(folder, slices)


def _stored(dataset: Dataset, **elements: int) -> Dataset:
    """Store a slice's HU in another way."""
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return paint(dataset)


def _with_bits(folder: Path, slices: list[Dataset], change) -> list[Truth]:
    for each in slices:
        stored = np.frombuffer(each.PixelData, "<u2").reshape(each.Rows, each.Columns)
        each.PixelData = change(stored).astype("<u2").tobytes()
    return sound(folder, slices)


def _padded(folder: Path, slices: list[Dataset]) -> list[Truth]:
    middle = np.array([0.5, 0.25])

    def field(world):
        outside = np.linalg.norm(world[..., :2] + middle, axis=-1) > RADIUS_MM
        return np.where(outside, np.nan, ramp(world))

    for each in slices:
        stored = np.frombuffer(each.PixelData, "<i2").reshape(each.Rows, each.Columns)
        each.PixelData = np.where(np.isnan(field(pixel_positions(each))), -2000, stored).astype("<i2").tobytes()
    write(folder, slices)
    return [truth_of(slices, field)]
