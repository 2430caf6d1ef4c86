"""The page of a folder's scans: what it shows, what it keeps to itself, and how it behaves in a browser."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.catalog.index import index_scans
from medseg.catalog.series_rules import SeriesRules
from medseg.catalog.unpack import Archives
from medseg.errors import OutputError, ReasonCode
from medseg.geometry import Grid
from medseg.io.nifti import write_volume
from medseg.quality.catalog_page import meaning, render_catalog, write_catalog_page
from medseg.quality.pictures import embed_picture
from medseg.quality.thumbnails import LARGEST, middle_slice, thumbnail
from medseg.volume import Volume

from ..catalog.studies import SAGITTAL, write_study
from .browser import NAMES, choose, wait_until

HOSTILE = "<script>document.title='owned'</script>"


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def ramp(shape, spacing, low=0.0, high=100.0):
    """Return a scan that grows brighter from left to right."""
    along = np.linspace(low, high, shape[0], dtype=np.float32)[:, None, None]
    return Volume(np.broadcast_to(along, shape)[None].copy(), Grid(shape, np.diag([*spacing, 1.0])))


@pytest.fixture
def scans(tmp_path):
    """Two sound series, a longer one, one with a gap, a packed NIfTI scan with a hostile name, and no scans."""
    root = tmp_path / "CANARY"
    write_study(root, "CANARY one", study="1.2.1", slices=10)
    write_study(root, "CANARY two", study="1.2.2", slices=20, spacing=1.0, directions=SAGITTAL)
    write_study(root, "CANARY other", study="1.2.2", slices=8, spacing=5.0)
    next(write_study(root, "CANARY gap", study="1.2.3").glob("0005*")).unlink()
    write_volume(tmp_path / "scan.nii", ramp((8, 6, 4), (1, 1, 2)))
    with zipfile.ZipFile(root / "CANARY.zip", "w") as archive:
        archive.write(tmp_path / "scan.nii", "scan.nii")
    (root / "CANARY.nii").write_bytes(b"junk" * 300)
    (root / "CANARY.txt").write_text("x")
    return root


def page_of(scans, tmp_path, rules=None):
    """Return the page, and the catalogue's case ids by the series' folder."""
    with Archives() as archives:
        catalog = index_scans(scans, key=tmp_path / "key", archives=archives, rules=rules)
        names = {entry.path.name: entry.case_id for entry in catalog.entries}
        write_catalog_page(catalog, tmp_path / "page.html", archives.fetch)
    return (tmp_path / "page.html").read_text(encoding="utf-8"), names


def test_every_scan_has_a_row_with_its_picture_and_nobody_is_named(scans, tmp_path):
    page, names = page_of(scans, tmp_path)
    rows = re.findall(r'<details class="case scan (\w+)".*?data-name="(.*?)".*?</details>', page, re.DOTALL)
    levels = {name: level for level, name in rows}
    assert len(rows) == 6
    assert levels[names["CANARY two"]] == "good"
    assert levels[names["CANARY gap"]] == "bad"
    assert page.count("data:image/") == 5  # all but the broken NIfTI file
    assert "lacks 1 slice" in page
    assert "slices are missing" in page
    assert "6 × 5 × 20" in page
    without_nifti = (
        page.replace("CANARY.nii", "").replace("CANARY_000001", "").replace(">CANARY<", "").replace('"CANARY"', "")
    )
    assert "CANARY" not in without_nifti
    assert "http" not in re.sub(r'http-equiv="', "", page)


def test_what_rules_did_not_choose_is_shown_with_the_reason(scans, tmp_path):
    page, names = page_of(scans, tmp_path, SeriesRules.model_validate({"rules": [{"min_slices": 9}]}))
    row = re.search(rf'<details[^>]*data-name="{names["CANARY other"]}".*?</details>', page, re.DOTALL)[0]
    assert "not chosen" in row
    assert "it has 8 slices, fewer than 9" in row
    assert "data:image/" in row


def test_hostile_text_stays_text(tmp_path):
    entry = CatalogEntry("refused", (tmp_path / "x.nii",), HOSTILE, ReasonCode.UNREADABLE, HOSTILE, path=Path("x"))
    page = render_catalog(Catalog(tmp_path, (entry,)), lambda _: None)
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;document.title") >= 2


def test_the_picture_is_the_middle_slice_from_the_feet_in_true_proportions():
    image = middle_slice(ramp((20, 10, 6), (1, 4, 5)))
    assert image.size == (LARGEST // 2, LARGEST)  # 20 mm wide, 40 mm high
    values = np.asarray(image, dtype=float)
    assert (np.diff(values.mean(axis=0)) <= 0).all()  # the patient's right, the brightest, is on the left
    assert values.max() > 250
    assert values.min() < 5


def test_a_ct_is_windowed_for_soft_tissue_and_a_flat_scan_is_shown_as_it_lies():
    ct = Volume(ramp((8, 8, 2), (1, 1, 1), -160, 240).array, Grid((8, 8, 2), np.eye(4)), "CT")
    values = np.asarray(middle_slice(ct), dtype=float)
    assert values.max() > 250
    assert values.min() < 5
    sagittal = ramp((1, 10, 20), (3, 1, 1))
    assert middle_slice(sagittal).size == (LARGEST // 2, LARGEST)


def test_a_picture_of_a_series_reads_one_file(tmp_path, monkeypatch):
    from medseg.io import dicom

    opened = []
    read = dicom.dcmread
    monkeypatch.setattr(dicom, "dcmread", lambda path, *a, **k: opened.append(path) or read(path, *a, **k))
    write_study(tmp_path / "scans", "one", slices=12)
    (entry,) = index_scans(tmp_path / "scans", key=tmp_path / "key").entries
    assert max(picture(thumbnail(entry, lambda _: None)).size) <= LARGEST
    assert len(opened) == 1


def test_pictures_are_small_whatever_they_show():
    noise = np.random.default_rng(0).integers(0, 255, (LARGEST, LARGEST), np.uint8)
    assert len(embed_picture(Image.fromarray(noise))) < 25_000


def test_a_scan_that_is_gone_has_no_picture(tmp_path):
    entry = CatalogEntry("refused", (tmp_path / "gone.nii",), "gone", ReasonCode.UNREADABLE)
    assert thumbnail(entry, lambda _: None) == ""


def test_every_code_has_words():
    assert all(meaning(code.value) for code in ReasonCode)
    assert meaning("DUPLICATE") == "slices are there twice"


def test_a_place_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't write"):
        write_catalog_page(Catalog(tmp_path, ()), tmp_path / "file" / "page.html", lambda _: None)


def test_in_a_browser_it_sorts_filters_and_stays_at_home(scans, tmp_path, browser):
    _, names = page_of(scans, tmp_path)
    browser.open(tmp_path / "page.html")
    assert browser.run("document.title") == "6 scans"
    first = browser.run(NAMES)
    assert len(first) == 6
    choose(browser, "#order", "number 0", "change")
    assert browser.run(NAMES)[0] == names["CANARY two"]
    choose(browser, "#order", "number 1", "change")
    assert browser.run(NAMES)[0] == names["CANARY other"]
    browser.run("document.querySelector('[data-flag=refused]').click()")
    assert set(browser.run(NAMES)) == {names["CANARY gap"], names["CANARY.nii"]}
    browser.run("document.querySelector('[data-flag=MISSING_SLICE]').click()")
    assert browser.run(NAMES) == [names["CANARY gap"]]
    assert browser.run("document.getElementById('shown').textContent") == "1 of 6 scans"
    browser.run("document.querySelector('[data-flag=refused]').click()")
    browser.run("document.querySelector('[data-flag=MISSING_SLICE]').click()")
    choose(browser, "#search", names["CANARY one"][:9], "input")
    assert browser.run(NAMES) == [names["CANARY one"]]
    choose(browser, "#search", "", "input")
    choose(browser, "#order", "priority", "change")
    assert browser.run(NAMES) == first
    browser.run("document.getElementById('open').click()")
    browser.run("[...document.images].forEach(picture => { picture.loading = 'eager'; })")
    wait_until(browser, "[...document.images].every(picture => picture.complete && picture.naturalWidth > 0)")
    assert browser.run("document.images.length") == 5
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert [url for url in browser.requests if not url.startswith(("data:", "file:///", "about:"))] == []
    assert browser.problems == []


def test_two_thousand_scans_stay_usable(tmp_path, browser, monkeypatch):
    from medseg.quality import catalog_page

    uri = embed_picture(middle_slice(ramp((40, 40, 2), (1, 1, 1))))
    monkeypatch.setattr(catalog_page, "thumbnail", lambda *_: uri)
    one = (tmp_path / "x",)
    entries = tuple(
        CatalogEntry("accepted", one, f"case-{n:012x}", shape=(512, 512, n), spacing=(1, 1, 2), axcodes="LPS")
        for n in range(1, 2001)
    )
    write_catalog_page(Catalog(tmp_path, entries), tmp_path / "page.html", lambda _: None)
    assert (tmp_path / "page.html").stat().st_size < 8e6
    browser.open(tmp_path / "page.html")
    seconds = browser.run(
        "(() => { const start = performance.now(); const order = document.getElementById('order');"
        "order.value = 'number 0'; order.dispatchEvent(new Event('change'));"
        "document.body.offsetHeight; return (performance.now() - start) / 1000; })()"
    )
    assert browser.run(NAMES)[0] == "case-0000000007d0"
    assert seconds < 5
