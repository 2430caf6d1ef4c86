import numpy as np
import pytest
from PIL import Image

from medseg.errors import OutputError
from medseg.quality.metrics import State, StructureScore
from medseg.quality.plots import plot_scores

SCORES = [
    StructureScore(f"case_{i}", "organ", State.SCORED, 0.9 - i / 50, 0.8, 2.0 + i, 0.9, 10.0, 11.0) for i in range(8)
] + [
    StructureScore("case_$x$", "organ", State.MISSED, 0.0, 0.0, 99.0, 0.0, 0.0, 11.0),
    StructureScore("case_0", "absent", State.BOTH_EMPTY, None, None, None, None, 0.0, 0.0),
]


@pytest.mark.parametrize("metric", ["dice", "hd95_mm", "volume_error_ml"])
def test_every_metric_has_a_plot(tmp_path, metric):
    plot_scores(SCORES, tmp_path / "plot.png", metric)
    assert np.asarray(Image.open(tmp_path / "plot.png").convert("L")).std() > 5


def test_the_worst_cases_and_every_structure_are_named(tmp_path):
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        plot_scores(SCORES, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for text in ("organ", "absent", "in no case", "case_$x$", "case_7", "9 cases", "Dice (1 is perfect)"):
        assert text in drawn
    assert "case_2 " not in drawn


def test_no_scores_still_give_a_plot(tmp_path):
    plot_scores([], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"\.png, \.svg, \.pdf"):
        plot_scores(SCORES, tmp_path / "plot.jpg")
