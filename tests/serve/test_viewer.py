"""The pages, and NiiVue in a browser without a window."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

from medseg.quality.viewer import niivue_file

from ..quality.browser import CHROMIUM, Browser, wait_until
from .conftest import CASES, NAME
from .test_app import as_slicer_numbers, label_file, submit


def test_the_first_page_lists_the_cases_the_most_doubtful_first(client):
    http = client()
    for case in ("beta", "gamma"):
        http.post(f"/infer/{NAME}?image={case}&output=json")
    page = http.get("/").text
    assert sorted(CASES, key=page.index)[:2] == sorted(
        ("beta", "gamma"), key=lambda case: -http.service.desk.known(case).priority
    )
    assert "script" not in page


def test_pages_have_a_policy_and_unknown_cases_no_page(client):
    http = client()
    assert http.get("/").headers["content-security-policy"].startswith("default-src 'none'")
    if niivue_file():
        assert "content=\"default-src 'none'; script-src 'self'" in http.get("/view/alpha").text
    assert http.get("/view/nobody").status_code == 404
    assert http.get("/view/..%2F..%2Fetc").status_code == 404


def test_without_niivue_the_viewer_says_how_to_get_it(client, monkeypatch):
    monkeypatch.setattr("medseg.serve.routes_pages.niivue_file", lambda: None)
    answer = client().get("/view/alpha")
    assert answer.status_code == 404
    assert "pip install" in answer.json()["detail"]


@pytest.fixture
def browser(tmp_path):
    found = Browser(tmp_path / "profile", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    yield found
    found.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.skipif(niivue_file() is None, reason="NiiVue is not installed: pip install 'medseg[viewer]'")
def test_scan_and_mask_are_seen_in_three_planes_and_in_3d(running, browser, tmp_path, opened):
    labels = tmp_path / "labels.json"
    labels.write_text('{"liver": 2, "tumour": 5}')
    address = running(model=None, labels=labels)
    import httpx2

    with httpx2.Client(base_url=address) as http:
        assert submit(http, "alpha", label_file(as_slicer_numbers())).status_code == 200
    browser.send("Emulation.setDeviceMetricsOverride", width=1000, height=800, deviceScaleFactor=1, mobile=False)
    browser.send("Page.navigate", url=f"{address}/view/alpha")
    wait_until(browser, "document.documentElement?.dataset.shown === '2'", 60)
    time.sleep(1)  # the first frame
    picture = Image.open(io.BytesIO(base64.b64decode(browser.send("Page.captureScreenshot")["data"]))).convert("RGB")
    picture.save(tmp_path / "viewer.png")
    pixels = np.asarray(picture).astype(int)[60:]
    greyish = np.ptp(pixels, axis=2) < 12
    bright = greyish & (pixels.mean(axis=2) > 60)
    reddish = (pixels[..., 0] - pixels[..., 2] > 25) & (pixels[..., 0] > 60)
    middle, right = pixels.shape[0] // 2, pixels.shape[1] // 2
    for part in (np.s_[:middle, :right], np.s_[:middle, right:], np.s_[middle:, :right], np.s_[middle:, right:]):
        assert (reddish[part] | bright[part]).sum() > 500, part
    assert reddish.sum() > 2000
    assert browser.run("document.getElementById('problem').textContent") == ""
    assert all(url.startswith((address, "data:", "blob:")) for url in browser.requests if "://" in url), (
        browser.requests
    )
