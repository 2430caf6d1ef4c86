import re

import numpy as np
import pytest
from PIL import Image

from medseg.errors import GeometryError, OutputError
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.quality.overlay import _draw_planes, _legend, _paint, _scene, overlay_png
from medseg.quality.slices import AXIAL, CORONAL, CT_WINDOW, SAGITTAL, display_window, planes_of, survey
from medseg.volume import Mask, Volume

RED, GREEN = (230, 40, 30), (40, 220, 60)
LABELS = LabelMap.model_validate(
    {"labels": [{"value": 1, "name": "liver", "colour": RED}, {"value": 2, "name": "spleen", "colour": GREEN}]}
)
RAS = Grid((40, 48, 30), np.array([[2.0, 0, 0, -40], [0, 2, 0, -48], [0, 0, 3, -45], [0, 0, 0, 1]]))


def rotation(degrees):
    """About x: a tilted scan, as in head MR."""
    angle = np.deg2rad(degrees)
    turned = np.eye(4)
    turned[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turned


def reindexed(grid, codes):
    """The same grid with its axes reordered and flipped to `codes`, and the array transform."""
    axes = [next(w for w, pair in enumerate(("LR", "PA", "IS")) if code in pair) for code in codes]
    flips = [code in "LPI" for code in codes]
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        matrix[old, new] = -1 if flip else 1
        matrix[old, 3] = grid.shape[old] - 1 if flip else 0

    def move(array):
        return np.ascontiguousarray(np.flip(array.transpose(axes), [a for a in range(3) if flips[a]]))

    return Grid(tuple(grid.shape[axis] for axis in axes), grid.affine @ matrix), move


def scene(codes="RAS", tilt=0.0):
    """Liver on the patient's right, anterior and superior; spleen left, posterior and inferior.

    Axial and coronal slices show both, a sagittal one shows one of them.
    """
    grid, move = reindexed(Grid(RAS.shape, rotation(tilt) @ RAS.affine), codes)
    mask = np.zeros(RAS.shape, dtype=np.uint8)
    mask[26:36, 20:40, 16:26] = 1
    mask[4:12, 8:28, 4:20] = 2
    image = np.full(RAS.shape, 40, dtype=np.float32)
    return Volume(move(image)[None], grid, "CT"), Mask(move(mask), grid)


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def panels(volume, mask):
    """Return the pixels of each plane's picture."""
    return [np.asarray(panel).astype(int) for panel in _draw_planes(_scene(volume, mask), LABELS)]


def centre(picture, colour):
    """Return (row, column) of the outline of `colour`, as parts of the picture."""
    near = (np.abs(picture - np.array(colour)) < 30).all(axis=2)
    assert near.any(), f"no pixel of {colour}"
    rows, columns = np.nonzero(near)
    return rows.mean() / picture.shape[0], columns.mean() / picture.shape[1]


@pytest.mark.parametrize("tilt", [0.0, 20.0])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "PIR", "ARI"])
def test_the_patients_right_is_on_the_left_whatever_the_scans_orientation(codes, tilt):
    axial, coronal, sagittal = panels(*scene(codes, tilt))
    for picture in (axial, coronal):
        assert centre(picture, RED)[1] < 0.5 < centre(picture, GREEN)[1]
        assert centre(picture, RED)[0] < centre(picture, GREEN)[0]  # anterior or superior is up
    row, column = centre(sagittal, RED)
    assert row < 0.5  # superior is up
    assert column < 0.5  # anterior is left


def test_every_orientation_gives_the_same_picture(tmp_path):
    pictures = []
    for codes in ("RAS", "LPS", "SAL", "IPR"):
        overlay_png(*scene(codes), LABELS, tmp_path / "overlay.png")
        pictures.append(read(tmp_path / "overlay.png"))
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


@pytest.mark.parametrize(
    ("plane", "index", "expected"),
    [
        pytest.param(AXIAL, 5, lambda c, r: (39 - c, 47 - r, 5), id="axial: columns to L, rows to P"),
        pytest.param(CORONAL, 7, lambda c, r: (39 - c, 7, 29 - r), id="coronal: columns to L, rows to I"),
        pytest.param(SAGITTAL, 3, lambda c, r: (3, 47 - c, 29 - r), id="sagittal: columns to P, rows to I"),
    ],
)
def test_planes_follow_the_radiological_convention(plane, index, expected):
    array = np.arange(np.prod(RAS.shape)).reshape(RAS.shape)
    picture = plane.picture_of(array, index)
    for column, row in ((0, 0), (4, 9), (20, 11)):
        assert picture[row, column] == array[expected(column, row)]
    assert plane.edges == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}[plane.name]


def test_panels_keep_true_proportions_and_one_scale():
    sizes = np.array([picture.shape[:2] for picture in panels(*scene())])
    expected = np.array([(96, 80), (90, 80), (90, 96)])  # rows and columns, mm
    np.testing.assert_allclose(sizes / expected, sizes[0, 0] / expected[0, 0], rtol=0.01)


def test_labels_are_coloured_where_they_are_and_nowhere_else():
    volume, mask = scene()
    coloured = [(np.abs(p - p[..., :1]) > 8).any(axis=2) for p in panels(volume, mask)]
    scale = coloured[0].shape[0] / 48
    x, y, z = survey(mask.array).slices
    for picture, values in zip(coloured, (mask.array[:, :, z], mask.array[:, y], mask.array[x]), strict=True):
        share = np.count_nonzero(values) / values.size
        assert np.count_nonzero(picture) / picture.size == pytest.approx(share, rel=0.1)
    liver = coloured[0][round((48 - 39) * scale) : round((48 - 21) * scale), round(5 * scale) : round(13 * scale)]
    assert liver.mean() > 0.97
    for picture in panels(volume, Mask(np.zeros_like(mask.array), mask.grid)):
        assert (picture == picture[..., :1]).mean() > 0.97  # but for the letters


@pytest.mark.parametrize("organ_first", [True, False])
@pytest.mark.parametrize("height", [200, 500])  # a voxel is a third of a pixel, or nearly one
def test_a_lone_voxel_and_a_thin_vessel_are_drawn_in_a_scan_of_more_voxels_than_pixels(height, organ_first):
    labels = LabelMap(labels=LABELS.labels if organ_first else LABELS.labels[::-1])
    values = np.zeros((600, 600), np.uint8)
    values[100:300, 100:300] = 1
    values[200, 201] = values[np.arange(400, 450), np.arange(400, 450)] = 2
    picture = np.asarray(_paint(np.full(values.shape, 60, np.uint8), values, labels, (height, height))).astype(int)
    rows, columns = np.nonzero(picture[..., 1] - picture[..., 0] > 100)  # green
    voxel = (rows < height // 2) & (columns < height // 2)
    scale = height / 600
    np.testing.assert_allclose([rows[voxel].mean(), columns[voxel].mean()], 200.5 * scale, atol=1)
    assert np.ptp(rows[~voxel]) == pytest.approx(50 * scale, abs=2)
    assert (rows[~voxel] == columns[~voxel]).mean() > 0.3


def test_slices_go_through_the_middle_of_every_label():
    mask = np.zeros((60, 60, 60), dtype=np.uint8)
    mask[5:50, 5:50, 5:50] = 1
    mask[40:43, 20:23, 10:13] = 2
    found = survey(mask)
    assert found.counts == {1: 45**3 - 27, 2: 27}
    for chosen, (start, stop) in zip(found.slices, ((40, 43), (20, 23), (10, 13)), strict=True):
        assert start <= chosen < stop


def test_a_lone_voxel_in_a_large_scan_is_found():
    mask = np.zeros((150, 150, 150), dtype=np.uint8)
    mask[1, 149, 77] = 3
    mask[0, 0, 0] = 0
    assert survey(mask).slices == (1, 149, 77)
    assert survey(mask).counts == {3: 1}
    assert survey(mask.astype(np.uint16) * 200).counts == {600: 1}


def test_without_labels_the_middle_is_shown():
    assert survey(np.zeros((10, 20, 30), dtype=np.uint8)).slices == (5, 10, 15)


@pytest.mark.parametrize(
    ("modality", "values", "expected"),
    [
        pytest.param("CT", (0, 100), CT_WINDOW, id="ct"),
        pytest.param("", (-1000, 400), CT_WINDOW, id="unknown with air"),
        pytest.param("MR", (-1000, 400), (-986, 386), id="mr, whatever its values"),
        pytest.param("", (0, 1000), (10, 990), id="unknown"),
    ],
)
def test_window_follows_modality(modality, values, expected):
    array = np.linspace(*values, 8000, dtype=np.float32).reshape(1, 20, 20, 20)
    volume = Volume(array, Grid((20, 20, 20), np.eye(4)), modality)
    assert display_window(volume, array[0]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("shape", [(40, 30, 1), (1, 30, 40), (40, 1, 1), (1, 1, 1), (3, 400, 2)])
def test_thin_scans_and_constant_images_have_a_picture(tmp_path, shape):
    grid = Grid(shape, np.eye(4))
    volume = Volume(np.full((1, *shape), 7, dtype=np.float32), grid, "MR")
    overlay_png(volume, Mask(np.ones(shape, dtype=np.uint8), grid), LABELS, tmp_path / "overlay.png")
    assert read(tmp_path / "overlay.png").shape[1] > 100
    assert len(planes_of(grid)) == (3 if min(shape) > 1 else 1)


def test_many_labels_fit_in_the_legend():
    many = LabelMap.parse({f"vertebra_with_a_long_name_{i}": i for i in range(1, 101)})
    legend = _legend([(label, label.name) for label in many.labels], [label.name for label in many.labels], 1000)
    assert legend.width == 1000
    assert legend.height >= 26 * 26


def test_the_legend_has_the_letters_of_other_languages():
    legends = [_legend([(LABELS.labels[0], name)], [], 200).tobytes() for name in ("Ä", "Ö", "ß", "ł", "λ", "\uffff")]
    assert len(set(legends)) == len(legends)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    volume, _ = scene()
    with pytest.raises(GeometryError, match=re.escape("the mask (30x48x40 voxels")):
        overlay_png(volume, scene("SAL")[1], LABELS, tmp_path / "overlay.png")
    assert not (tmp_path / "overlay.png").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't write"):
        overlay_png(*scene(), LABELS, tmp_path / "file" / "overlay.png")


def test_pictures_hold_no_text_fields(tmp_path):
    overlay_png(*scene(), LABELS, tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as picture:
        assert picture.info == {}
