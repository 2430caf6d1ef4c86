"""A case's page: what it holds, and how it looks when it is opened from the disk, without a server."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.quality.report import write_report
from medseg.quality.viewer import NIIVUE, VIEW, draw_case, niivue_file, steps_within, write_niivue, write_view
from medseg.volume import Mask, Volume

from .browser import CHROMIUM, Browser, wait_until
from .results import record, write_results

LABELS = LabelMap.parse({"liver": 2, "tumour": 5, "spleen": 9})
HOSTILE = "</script><script>document.title='owned'</script>"

needs_niivue = pytest.mark.skipif(niivue_file() is None, reason="NiiVue is not installed: pip install 'medseg[viewer]'")


def scene(shape=(30, 24, 16)):
    """A bright block with a lesion in noise, on an oblique grid."""
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([-1.5, 1.5, 2.0]), [40, -31, 7]
    mask = np.zeros(shape, np.uint8)
    mask[6:20, 5:18, 4:12], mask[10:14, 9:13, 6:10] = 2, 5
    image = np.random.default_rng(0).normal(-20, 20, shape) + 150 * (mask > 0)
    grid = Grid(shape, affine)
    return Volume(image.astype(np.float32)[None], grid, "CT"), Mask(mask, grid)


def layers_of(page: Path):
    """Return the volumes that a page holds, as nibabel reads them."""
    found = re.search(r'<script id="what" type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"))
    layers = json.loads(found[1])["layers"]
    return [nib.Nifti1Image.from_bytes(unpacked(layer["url"])) for layer in layers], layers


def unpacked(url: str) -> bytes:
    return gzip.decompress(base64.b64decode(url.partition("base64,")[2]))


def test_a_small_scan_is_there_voxel_for_voxel_where_it_is(tmp_path):
    volume, mask = scene()
    write_view(volume, mask, LABELS, tmp_path / VIEW)
    (scan, shown), layers = layers_of(tmp_path / VIEW)
    np.testing.assert_allclose(scan.affine, volume.grid.affine, atol=1e-5)
    np.testing.assert_allclose(shown.affine, volume.grid.affine, atol=1e-5)
    assert (layers[0]["low"], layers[0]["high"]) == (-160, 240)
    assert np.abs(scan.get_fdata() - volume.array[0].clip(-160, 240)).max() <= 400 / 255
    np.testing.assert_array_equal(np.asarray(shown.dataobj), np.searchsorted([0, 2, 5, 9], mask.array))
    assert layers[1]["lut"] == [0, 0, 0, 0, *(part for label in LABELS.labels for part in (*label.colour, 255))]
    page = (tmp_path / VIEW).read_text()
    assert "tumour" in page
    assert "spleen" not in page
    assert "is shown" not in page


def test_a_large_scan_is_thinned_and_stays_in_place(tmp_path, monkeypatch):
    volume, mask = scene()
    monkeypatch.setattr("medseg.quality.viewer.MOST_VOXELS", 3000)
    write_view(volume, mask, LABELS, tmp_path / VIEW)
    (scan, shown), _ = layers_of(tmp_path / VIEW)
    assert scan.shape == (15, 12, 16)
    np.testing.assert_array_equal(np.asarray(shown.dataobj) > 0, mask.array[::2, ::2] > 0)
    np.testing.assert_allclose(scan.affine @ [3, 4, 5, 1], volume.grid.affine @ [6, 8, 5, 1], atol=1e-4)
    assert "one of 2 × 2 × 1 voxels is shown" in (tmp_path / VIEW).read_text()


@given(
    shape=st.tuples(*[st.integers(1, 3000)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 10)] * 3),
    voxels=st.integers(1, 10**7),
)
def test_steps_keep_to_the_bound_and_thin_no_more_than_needed(shape, spacing, voxels):
    steps = steps_within(Grid(shape, np.diag([*spacing, 1.0])), voxels)
    assert np.prod([-(-size // step) for size, step in zip(shape, steps, strict=True)]) <= voxels
    if np.prod(shape) <= voxels:
        assert steps == (1, 1, 1)


def test_names_stay_text_and_only_the_own_script_runs(tmp_path):
    labels = LabelMap.parse({HOSTILE: 2, "tumour": 5})
    write_view(*scene(), labels, tmp_path / VIEW)
    page = (tmp_path / VIEW).read_text()
    assert "<script>document.title" not in page
    assert page.count("<script") == 3
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page


def test_without_niivue_there_is_neither_page_nor_link(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.quality.viewer.niivue_file", lambda: None)
    draw_case(*scene(), LABELS, tmp_path / "overlay.png")
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.png"]
    folder = write_results(tmp_path / "out", [record("alpha")])
    write_view(*scene(), LABELS, folder / "cases" / "alpha" / VIEW)
    write_report(folder)
    assert VIEW not in (folder / "report.html").read_text()
    assert not write_niivue(folder)


@needs_niivue
def test_cases_with_a_page_are_linked_to_it(tmp_path):
    folder = write_results(tmp_path / "out", [record("alpha 1"), record("beta")])
    draw_case(*scene(), LABELS, folder / "cases" / "alpha 1" / "overlay.png")
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert page.count(VIEW) == 1
    assert f'href="cases/alpha%201/{VIEW}"' in page
    assert (folder / NIIVUE).is_file()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@needs_niivue
def test_a_double_click_shows_three_planes_and_3d(tmp_path):
    folder = write_results(tmp_path / "out", [record("alpha 1")])
    draw_case(*scene(), LABELS, folder / "cases" / "alpha 1" / "overlay.png")
    write_report(folder)
    browser = Browser(tmp_path / "profile", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    try:
        browser.send("Emulation.setDeviceMetricsOverride", width=900, height=700, deviceScaleFactor=1, mobile=False)
        browser.open(folder / "report.html")
        browser.run("document.querySelector('details.case').open = true")
        browser.run("[...document.querySelectorAll('a')].find((a) => a.textContent.includes('3D')).click()")
        wait_until(browser, "document.documentElement?.dataset.shown === '2'", 60)
        before = screen(browser)
        picture = np.asarray(before).astype(int)[60:]
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "view.png")
        middle, right = picture.shape[0] // 2, picture.shape[1] // 2
        coloured = np.ptp(picture, axis=2) > 25
        for part in (np.s_[:middle, :right], np.s_[:middle, right:], np.s_[middle:, :right], np.s_[middle:, right:]):
            assert coloured[part].sum() > 500, part
        assert browser.run("document.title") == "alpha 1"
        assert browser.run("document.getElementById('problem').textContent") == ""
        assert all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests), browser.requests
        scroll(browser, 180, 180)
        assert np.abs(np.asarray(screen(browser)).astype(int) - np.asarray(before)).sum() > 10_000
        browser.send("Emulation.setDeviceMetricsOverride", width=900, height=500, deviceScaleFactor=1, mobile=False)
        wait_until(browser, "document.querySelector('canvas').getBoundingClientRect().bottom <= 500")
        browser.send("Emulation.setDeviceMetricsOverride", width=900, height=700, deviceScaleFactor=1, mobile=False)
        wait_until(browser, "document.querySelector('canvas').getBoundingClientRect().bottom > 650")
    finally:
        browser.close()


def scroll(browser, x, y):
    """Turn the mouse's wheel over a place, as a person scrolls through slices."""
    for _ in range(3):
        browser.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=120)


def screen(browser):
    time.sleep(0.7)  # until the frame is drawn
    shot = browser.send("Page.captureScreenshot")["data"]
    return Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")
