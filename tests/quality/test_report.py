"""The page and the worklist: order, escaping, size, and how the page behaves in a browser."""

from __future__ import annotations

import csv
import html
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from medseg.batch.record import Inputs
from medseg.batch.summary import CaseResult
from medseg.errors import ConfigError, OutputError
from medseg.measures.intensity import Intensity
from medseg.quality.checks import Flag
from medseg.quality.pictures import SIZES, embed_pictures
from medseg.quality.range_plot import Dot, Scale, case_bar, volume_plot
from medseg.quality.report import write_report
from medseg.quality.review import GRAVE_PRIORITY, review_results

from .browser import NAMES, choose, wait_until
from .results import LABELS, VOLUMES, doubt, features, record, reference, spread, structure, write_results

HOSTILE = "<script>document.title='owned'</script>"
HOSTILE_NAME = "\"><img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "overlay.png"
    noise = np.random.default_rng(0).integers(0, 255, (60, 180, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def unsure(soft_dice):
    return features().model_copy(update={"uncertainty": {name: doubt(soft_dice) for name in VOLUMES}})


def sample():
    """Return cases of known order: swapped sides, unsure, a flag, and two good ones."""
    swapped = features(
        kidney_left=structure("kidney_left", centroid_mm=(60, 0, 0)),
        kidney_right=structure("kidney_right", centroid_mm=(-60, 0, 0)),
    )
    return [
        record("good_10", unsure(0.95)),
        record("good_9", unsure(0.96)),
        record("swapped", swapped),
        record("large", features(liver=structure("liver", volume_ml=5000))),
        record("unsure", unsure(0.6)),
    ]


@pytest.fixture
def results(tmp_path, picture):
    others = [CaseResult("cut", "rejected", "TRUNCATED", "cut: the file ends too early; copy it again")]
    return write_results(tmp_path / "out", sample(), others, reference(), picture)


def test_the_most_doubtful_case_comes_first(results):
    review = write_report(results)
    names = [case.record.case for case in review.cases]
    assert names.index("swapped") < names.index("good_10")
    assert names.index("unsure") < names.index("large") < names.index("good_10") < names.index("good_9")
    by_name = {case.record.case: case for case in review.cases}
    assert by_name["swapped"].priority == GRAVE_PRIORITY
    assert by_name["swapped"].expected_dice > 0.8
    assert by_name["unsure"].priority == pytest.approx(1 - by_name["unsure"].expected_dice)
    assert [other.case for other in review.others] == ["cut"]
    rows = list(csv.DictReader((results / "worklist.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == names
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[names.index("swapped")]["flags"] == "LEFT_RIGHT_SWAP"
    assert (results / "cases" / "swapped").is_dir()


def test_without_calibration_there_is_an_order_and_no_dice(tmp_path):
    for known in (None, reference(calibrated=False)):
        folder = write_results(tmp_path / str(bool(known)), sample(), known=known)
        review = write_report(folder)
        names = [case.record.case for case in review.cases]
        assert names[:2] == ["swapped", "unsure"]
        assert names.index("good_10") < names.index("good_9")
        assert all(case.expected_dice is None and 0 <= case.priority <= 1 for case in review.cases)
        page = (folder / "report.html").read_text()
        assert "not a calibrated quality" in page
        assert "expected Dice 0" not in page


def test_records_without_features_are_listed_all_the_same(tmp_path):
    folder = write_results(tmp_path / "old", [record("old", features=None)], known=reference())
    (case,) = write_report(folder).cases
    assert case.expected_dice is None
    assert case.priority == pytest.approx(0.05)


def test_hostile_names_stay_text(tmp_path):
    others = [CaseResult(HOSTILE, "failed", HOSTILE, f"{HOSTILE} \"'"), CaseResult("../../etc", "done")]
    labels = LABELS.model_dump(mode="json")
    made = Inputs(source="s", model=HOSTILE, settings="t")
    records = [record(case, inputs=made) for case in (HOSTILE_NAME, "moved")]
    folder = write_results(tmp_path / "out", records, others, reference())
    run = json.loads((folder / "run.json").read_text())
    labels["labels"][1]["name"] = HOSTILE
    (folder / "run.json").write_text(
        json.dumps({**run, "labels": labels, "model": {"name": HOSTILE, "digest": HOSTILE}})
    )
    (folder / "cases" / "moved" / "case.json").write_text(record("../../etc").model_dump_json())
    review = write_report(folder)
    page = (folder / "report.html").read_text()
    assert [case.record.case for case in review.cases] == [HOSTILE_NAME]
    assert {other.case for other in review.others} == {HOSTILE, "../../etc", "moved"}
    assert page.count("<script") == 1
    assert "<img src=x" not in page
    assert html.escape(HOSTILE, quote=False).replace("'", "&#39;") in page


def test_the_page_asks_nobody_for_anything(results):
    write_report(results)
    page = (results / "report.html").read_text()
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert addresses
    assert all(a.startswith(("data:image/", "#case-", "cases/")) for a in addresses)
    assert "http" not in re.sub(r'http-equiv="', "", page)
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_a_damaged_or_missing_picture_is_no_obstacle(results):
    (results / "cases" / "unsure" / "overlay.png").write_bytes(b"no picture")
    (results / "cases" / "large" / "overlay.png").unlink()
    write_report(results)
    assert (results / "report.html").read_text().count("no picture") == 2


def test_only_pictures_that_were_drawn_are_linked(tmp_path):
    records = [record("drawn", outputs={"mask.nii.gz": "d", "overlay.png": "d"}), record("not", outputs={})]
    write_report(write_results(tmp_path / "out", records, known=reference()))
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'href="cases/drawn/overlay.png"' in page
    assert 'href="cases/not/overlay.png"' not in page


def test_pictures_keep_to_the_budget(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (700, 1400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=1)
    (large,) = embed_pictures([tmp_path / "noise.png"])
    monkeypatch.setattr("medseg.quality.pictures.BUDGET", 100_000)
    (small,) = embed_pictures([tmp_path / "noise.png"])
    assert len(small.large) + len(small.small) < 140_000 < len(large.large)
    assert large.large.startswith("data:image/jpeg")  # quick where there is room
    assert small.large.startswith("data:image/webp")
    monkeypatch.setattr("medseg.quality.pictures.BUDGET", 100)
    (none,) = embed_pictures([tmp_path / "noise.png"])
    assert none.large == ""
    assert [width for width, _ in SIZES] == sorted((width for width, _ in SIZES), reverse=True)


def test_a_folder_that_is_no_result_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"run\.json"):
        review_results(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(OutputError, match="not what medseg segment writes"):
        review_results(tmp_path)
    (tmp_path / "run.json").write_text('{"labels": {"a": 1}, "reference": {"cases": 0}}')
    with pytest.raises(OutputError, match="not what medseg segment writes"):
        review_results(tmp_path)
    (tmp_path / "run.json").write_text('{"labels": {"a": 1}}')
    (tmp_path / "cases.csv").write_text(f'case,status\n"{"a," * 70_000}')
    with pytest.raises(OutputError, match=r"no readable cases\.csv"):
        review_results(tmp_path)


def test_a_thousand_cases_stay_usable(tmp_path, picture):
    rng = np.random.default_rng(0)
    volumes = np.exp(rng.normal(0, 0.3, 1000))
    records = [
        record(f"case_{i:04d}", features(liver=structure("liver", volume_ml=1500 * v))) for i, v in enumerate(volumes)
    ]
    folder = write_results(tmp_path / "out", records, known=reference(), picture=picture)
    began = time.process_time()
    write_report(folder)
    assert time.process_time() - began < 60
    assert (folder / "report.html").stat().st_size < 60e6
    assert (folder / "report.html").read_text().count('<details class="case') == 1000


def test_the_scale_is_logarithmic_and_its_ticks_round():
    scale = Scale(1.0, 100.0)
    assert [scale(v) for v in (0.5, 1, 10, 100, 1000)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert scale.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert 1 <= len(Scale(1e-3, 1e4).ticks()) <= 8


def test_plots_show_the_unusual_as_links_and_escape_names():
    dots = [Dot("a", "case-1", 100.0), Dot("<b>", "case-2", 900.0)]
    plot = volume_plot("<i>", "#ff0000", dots, spread(100.0))
    assert plot.count("<circle") == 1
    assert 'href="#case-2"' in plot
    assert "<b>" not in plot
    assert "<i>" not in plot
    assert volume_plot("liver", "#ff0000", dots, None).count("<circle") == 0
    assert "odd" in case_bar(900.0, "#ff0000", spread(100.0))
    assert "odd" not in case_bar(100.0, "#ff0000", spread(100.0))


def test_cases_link_to_a_viewer_if_there_is_one(tmp_path):
    folder = write_results(tmp_path / "out", [record("alpha")])
    write_report(folder, "https://medseg.example/key/0f/")
    assert 'href="https://medseg.example/key/0f/view/alpha"' in (folder / "report.html").read_text()
    write_report(folder)
    assert "/view/" not in (folder / "report.html").read_text()
    with pytest.raises(ConfigError, match="no address"):
        write_report(folder, "javascript:alert(1)")


def test_in_a_browser_it_sorts_filters_and_stays_at_home(tmp_path, picture, browser):
    hostile = sample()[0].model_copy(update={"case": HOSTILE_NAME})
    others = [CaseResult(HOSTILE, "failed", "UNEXPECTED", HOSTILE)]
    results = write_results(tmp_path / "out", [hostile, *sample()[1:]], others, reference(), picture)
    write_report(results)
    browser.open(results / "report.html")
    first = browser.run(NAMES)
    assert first[0] in ("swapped", "unsure")
    assert browser.run("document.title") == "abdomen: 5 cases to review"

    choose(browser, "#order", "name", "change")
    by_name = browser.run(NAMES)
    assert by_name == [HOSTILE_NAME, "good_9", "large", "swapped", "unsure"]
    browser.run("document.getElementById('turn').click()")
    assert browser.run(NAMES) == by_name[::-1]
    browser.run("document.getElementById('turn').click()")
    choose(browser, "#order", "number 0", "change")
    assert browser.run(NAMES)[0] == "large"
    choose(browser, "#order", "priority", "change")
    assert browser.run(NAMES) == first

    browser.run(f"document.querySelector('[data-flag={Flag.VOLUME_HIGH}]').click()")
    assert browser.run(NAMES) == ["large"]
    assert browser.run("document.getElementById('shown').textContent") == "1 of 5 cases"
    choose(browser, "#search", "nobody", "input")
    assert browser.run(NAMES) == []
    assert not browser.run("document.getElementById('none').hidden")
    choose(browser, "#search", "", "input")
    browser.run(f"document.querySelector('[data-flag={Flag.VOLUME_HIGH}]').click()")
    assert browser.run(NAMES) == first

    browser.run("document.getElementById('open').click()")
    assert browser.run("[...document.querySelectorAll('details.case')].every(row => row.open)")
    browser.run("[...document.images].forEach(picture => { picture.loading = 'eager'; })")
    wait_until(browser, "[...document.images].every(picture => picture.complete && picture.naturalWidth > 0)")
    assert browser.run("document.images.length") == 10
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    outside = [url for url in browser.requests if not url.startswith(("data:", "file:///", "about:"))]
    assert outside == []
    assert sum(url.startswith("file:") for url in browser.requests) == 1  # the page itself
    assert browser.problems == []


def test_a_link_opens_its_case(results, browser):
    write_report(results)
    browser.open(results / "report.html")
    browser.run("document.querySelector('svg a').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    wait_until(browser, "document.querySelectorAll('details.case[open]').length === 1")
    assert browser.run("document.querySelector('details.case[open]').dataset.name") == "large"


def test_the_policy_of_the_page_stops_foreign_scripts(results, browser):
    """Even if a name slipped through unescaped, nothing of it would run."""
    write_report(results)
    page = results / "report.html"
    page.write_text(page.read_text().replace("<footer>", f"{HOSTILE}<img src='http://127.0.0.1:9/x'><footer>"))
    browser.open(page)
    assert browser.run("document.title") == "abdomen: 5 cases to review"
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_intensities_are_compared(tmp_path):
    dark = record("dark", features(liver=structure("liver", intensity=(Intensity(mean=-50, sd=20),))))
    (case,) = review_results(write_results(tmp_path / "out", [dark], known=reference())).cases
    assert case.flags == (Flag.INTENSITY,)
