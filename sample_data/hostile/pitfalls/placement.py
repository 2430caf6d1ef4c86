"""Orientation, position and spacing: where the slices lie, and where their headers say they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pitfalls.registry import Truth, pitfall
from pitfalls.slices import SPACING, decimals, make_slices, paint, shift, sound, truth_of, write

TURN = np.array(
    [[0.9362934, -0.2750959, 0.2183507], [0.2896295, 0.9564251, -0.0369570], [-0.1986693, 0.0978434, 0.9751703]]
)
"""A rotation about three axes; its columns are unit vectors to 1e-7."""


@pitfall("right", studied=True)
def sagittal(folder: Path) -> list[Truth]:
    """The slices are sagittal."""
    return sound(folder, make_slices(directions=((0, 1, 0), (0, 0, -1))))


@pitfall("right", studied=True)
def coronal(folder: Path) -> list[Truth]:
    """The slices are coronal."""
    return sound(folder, make_slices(directions=((1, 0, 0), (0, 0, -1))))


@pitfall("right", studied=True)
def oblique(folder: Path) -> list[Truth]:
    """The slices are turned about all three axes."""
    return sound(folder, make_slices(directions=np.linalg.qr(TURN)[0].T[:2].tolist()))


@pitfall("right", studied=True)
def descending(folder: Path) -> list[Truth]:
    """The first slice lies at the top."""
    return sound(folder, make_slices(step=(0, 0, -SPACING[2])))


@pitfall("right", studied=True)
def negated_cosines(folder: Path) -> list[Truth]:
    """Rows run to the right and columns to the front: the image is upside down in a viewer."""
    return sound(folder, make_slices(directions=((-1, 0, 0), (0, -1, 0))))


@pitfall("right")
def left_handed_steps(folder: Path) -> list[Truth]:
    """Sagittal slices are numbered against their normal, mirrored along their rows."""
    return sound(folder, make_slices(directions=((0, -1, 0), (0, 0, -1)), step=(-SPACING[2], 0, 0)))


@pitfall("right", studied=True)
def orientation_jitter(folder: Path) -> list[Truth]:
    """The direction cosines differ by 1e-5 from slice to slice."""
    slices = make_slices()
    for each, noise in zip(slices, np.random.default_rng(0).normal(0, 1e-5, (len(slices), 6)), strict=True):
        each.ImageOrientationPatient = decimals(np.array([1, 0, 0, 0, 1, 0]) + noise)
    write(folder, slices)
    return [truth_of(make_slices())]


@pitfall("right", studied=True)
def overlong_decimals(folder: Path) -> list[Truth]:
    """The direction cosines are printed with more than the 16 characters that the standard allows."""
    cosines = np.linalg.qr(TURN)[0].T[:2]
    slices = make_slices(directions=cosines.tolist())
    text = "\\".join(f"{value:.20f}" for value in cosines.ravel()).encode()
    tag = Tag("ImageOrientationPatient")
    config.settings.writing_validation_mode, before = config.WARN, config.settings.writing_validation_mode
    try:
        truth = [truth_of(slices)]
        for each in slices:
            each._dict[tag] = RawDataElement(tag, "DS", len(text), text, 0, False, True, True)
        write(folder, slices)
    finally:
        config.settings.writing_validation_mode = before
    return truth


@pitfall("BAD_ORIENTATION")
def cosines_not_unit(folder: Path) -> list[Truth]:
    """The direction cosines are vectors of length 2."""
    return _with_orientation(folder, [2, 0, 0, 0, 2, 0])


@pitfall("BAD_ORIENTATION")
def cosines_not_perpendicular(folder: Path) -> list[Truth]:
    """Rows and columns meet at 81 degrees."""
    return _with_orientation(folder, [1, 0, 0, 0.15643447, 0.98768834, 0])


@pitfall("BAD_ORIENTATION")
def cosines_zero(folder: Path) -> list[Truth]:
    """The direction cosines are all 0."""
    return _with_orientation(folder, [0] * 6)


@pitfall("NO_POSITION")
def cosines_missing(folder: Path) -> list[Truth]:
    """One slice does not say how it is turned."""
    slices = make_slices()
    del slices[4].ImageOrientationPatient
    return _as_written(folder, slices)


@pitfall("MIXED_ORIENTATION")
def one_slice_turned(folder: Path) -> list[Truth]:
    """One slice is turned by 2 degrees against the others."""
    slices = make_slices()
    slices[5].ImageOrientationPatient = decimals([0.99939083, 0.0348995, 0, -0.0348995, 0.99939083, 0])
    paint(slices[5])
    return _as_written(folder, slices)


@pitfall("MISSING_SLICE", repair="MISSING_SLICE", studied=True)
def missing_slice(folder: Path) -> list[Truth]:
    """A slice in the middle is missing."""
    slices = make_slices()
    write(folder, slices[:5] + slices[6:])
    return [truth_of(slices)]


@pitfall("MISSING_SLICE", repair="MISSING_SLICE")
def missing_slices(folder: Path) -> list[Truth]:
    """Three slices are missing, two of them neighbours, one the last but one."""
    slices = make_slices()
    write(folder, [each for number, each in enumerate(slices) if number not in (3, 4, 10)])
    return [truth_of(slices)]


@pitfall("VARIABLE_SPACING", repair="VARIABLE_SPACING", studied=True)
def variable_spacing(folder: Path) -> list[Truth]:
    """The distance between slices changes from 2.5 to 4 mm half-way."""
    slices = make_slices()
    for number, each in enumerate(slices[6:], start=1):
        shift(each, (0, 0, 1.5 * number))
    write(folder, slices)
    return [truth_of(slices, slack_mm=4.0)]


@pitfall("VARIABLE_SPACING", repair="VARIABLE_SPACING")
def uneven_spacing(folder: Path) -> list[Truth]:
    """Every slice distance is another one, from 2 to 3 mm."""
    slices = make_slices()
    for each, offset in zip(slices[1:-1], np.random.default_rng(1).uniform(-0.25, 0.25, len(slices) - 2), strict=True):
        shift(each, (0, 0, offset))
    write(folder, slices)
    return [truth_of(slices, slack_mm=SPACING[2])]


@pitfall("right", studied=True)
def missing_ends(folder: Path) -> list[Truth]:
    """Slices at both ends are missing: a shorter scan, as nobody can know."""
    return sound(folder, make_slices()[2:-3])


@pitfall("VARIABLE_SPACING")
def slice_moved_sideways(folder: Path) -> list[Truth]:
    """One slice lies 3 mm beside the others."""
    slices = make_slices()
    shift(slices[4], (3, 0, 0))
    return _as_written(folder, slices)


@pitfall("right", repair="GANTRY_TILT", flags=("GANTRY_TILT",), studied=True)
def gantry_tilt(folder: Path) -> list[Truth]:
    """The gantry was tilted by 15 degrees: each slice is shifted against the one before."""
    tilt = np.radians(15)
    directions = ((1, 0, 0), (0, np.cos(tilt), -np.sin(tilt)))
    return sound(folder, make_slices(directions=directions, step=(0, 0, SPACING[2])))


@pitfall("MISSING_SLICE", repair="MISSING_SLICE")
def gantry_tilt_missing_slice(folder: Path) -> list[Truth]:
    """The gantry was tilted the other way, and a slice is missing."""
    tilt = np.radians(-20)
    directions = ((1, 0, 0), (0, np.cos(tilt), -np.sin(tilt)))
    slices = make_slices(directions=directions, step=(0, 0, SPACING[2]))
    write(folder, slices[:8] + slices[9:])
    return [truth_of(slices)]


@pitfall("right", studied=True)
def thickness_varies(folder: Path) -> list[Truth]:
    """SliceThickness changes inside the series; the positions do not care."""
    slices = make_slices()
    for number, each in enumerate(slices):
        each.SliceThickness = 2.5 if number % 3 else 5
    return sound(folder, slices)


@pitfall("right")
def thickness_unlike_distance(folder: Path) -> list[Truth]:
    """Slices 5 mm thick overlap: their distance is 2.5 mm."""
    slices = make_slices()
    for each in slices:
        each.SliceThickness, each.SpacingBetweenSlices = 5, 5
    return sound(folder, slices)


@pitfall("right")
def negative_slice_distance(folder: Path) -> list[Truth]:
    """SpacingBetweenSlices is negative, and the last word on nothing."""
    slices = make_slices()
    for each in slices:
        each.SpacingBetweenSlices = -SPACING[2]
    return sound(folder, slices)


@pitfall("right", studied=True)
def single_slice(folder: Path) -> list[Truth]:
    """The series has one slice."""
    return sound(folder, make_slices(count=1))


@pitfall("right")
def positions_rounded(folder: Path) -> list[Truth]:
    """Oblique positions are printed with two decimals, so that slice distances differ by rounding."""
    slices = make_slices(directions=np.linalg.qr(TURN)[0].T[:2].tolist())
    truth = truth_of(slices)
    for each in slices:
        each.ImagePositionPatient = [f"{value:.2f}" for value in each.ImagePositionPatient]
    write(folder, slices)
    return [truth]


@pitfall("NO_POSITION")
def position_missing(folder: Path) -> list[Truth]:
    """One slice does not say where it lies."""
    slices = make_slices()
    del slices[7].ImagePositionPatient
    return _as_written(folder, slices)


@pitfall("NO_POSITION")
def position_not_a_number(folder: Path) -> list[Truth]:
    """The position of one slice is not a number."""
    slices = make_slices()
    truth = [truth_of(slices)]
    _raw(slices[7], "ImagePositionPatient", b"-11\\-14\\nan ")
    write(folder, slices)
    return truth


@pitfall("NO_POSITION")
def pixel_spacing_missing(folder: Path) -> list[Truth]:
    """PixelSpacing is missing; the spacing on the detector stands in its place."""
    return _with_spacing(folder, None)


@pitfall("NO_POSITION")
def pixel_spacing_zero(folder: Path) -> list[Truth]:
    """PixelSpacing is 0."""
    return _with_spacing(folder, [0, 0])


@pitfall("NO_POSITION")
def pixel_spacing_negative(folder: Path) -> list[Truth]:
    """PixelSpacing is negative."""
    return _with_spacing(folder, [-1.5, -1])


@pitfall("NO_POSITION")
def pixel_spacing_with_commas(folder: Path) -> list[Truth]:
    """PixelSpacing is printed with decimal commas."""
    slices = make_slices()
    truth = [truth_of(slices)]
    for each in slices:
        _raw(each, "PixelSpacing", b"1,5\\1,0 ")
    write(folder, slices)
    return truth


@pitfall("right")
def numbers_padded(folder: Path) -> list[Truth]:
    """Numbers are printed with exponents, signs, leading and trailing blanks."""
    slices = make_slices()
    truth = [truth_of(slices)]
    for each in slices:
        _raw(each, "PixelSpacing", b" +1.50E+00 \\ 10e-1")
        _raw(each, "RescaleIntercept", b"-1.024e3 ")
    write(folder, slices)
    return truth


@pitfall("MIXED_MATRIX")
def pixel_spacing_mixed(folder: Path) -> list[Truth]:
    """Half of the slices were reconstructed with a larger field of view on the same matrix."""
    slices = make_slices()
    for each in slices[6:]:
        each.PixelSpacing = [2, 2]
        paint(each)
    return _as_written(folder, slices)


@pitfall("MIXED_MATRIX", studied=True)
def mixed_matrix(folder: Path) -> list[Truth]:
    """One slice has more rows than the others."""
    slices = make_slices()
    slices[5].Rows = 28
    paint(slices[5])
    return _as_written(folder, slices)


def _as_written(folder: Path, slices: list) -> list[Truth]:
    """Write slices that are no volume; the truth is the stack that they would have been."""
    write(folder, slices)
    return [truth_of(make_slices())]


def _with_orientation(folder: Path, cosines: list[float]) -> list[Truth]:
    slices = make_slices()
    for each in slices:
        each.ImageOrientationPatient = decimals(cosines)
    return _as_written(folder, slices)


def _with_spacing(folder: Path, spacing: list[float] | None) -> list[Truth]:
    slices = make_slices()
    for each in slices:
        each.ImagerPixelSpacing = [1.5, 1]
        if spacing is None:
            del each.PixelSpacing
        else:
            each.PixelSpacing = spacing
    return _as_written(folder, slices)


def _raw(dataset, keyword: str, value: bytes) -> None:
    """Put bytes into an element that pydicom would not let pass."""
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True, True)
