import csv
import io
import json
import re

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from medseg.errors import ConfigError, DatasetError, OutputError
from medseg.geometry import Grid
from medseg.io.tables import write_csv
from medseg.labels import LabelMap
from medseg.quality.evaluate import Pair, evaluate_folder, evaluate_pairs, find_masks
from medseg.quality.metrics import State, image_diagonal_mm
from medseg.quality.tables import score_table, write_scores, write_summary

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LABELS = LabelMap.parse({"organ": 1, "tumour": 2})


def write(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def organ(shift=0, tumour=False):
    array = np.zeros((12, 10, 8), dtype=np.uint8)
    array[2 + shift : 6 + shift, 2:6, 2:6] = 1
    if tumour:
        array[3, 3, 3] = 2
    return array


@pytest.fixture
def folders(tmp_path):
    """Two cases, the second without a tumour; predictions one voxel off."""
    for case, tumour in (("a", True), ("b", False)):
        write(tmp_path / "truths" / f"{case}.nii.gz", organ(tumour=tumour))
        write(tmp_path / "predictions" / f"{case}.nii.gz", organ(shift=1, tumour=tumour))
    return tmp_path / "predictions", tmp_path / "truths"


def states(evaluation):
    return {(score.case, score.target): score.state for score in evaluation.scores}


def test_every_case_and_target_has_a_score(folders):
    evaluation = evaluate_folder(*folders, LABELS, tolerance_mm=1.0)
    assert [(s.case, s.target) for s in evaluation.scores] == [
        ("a", "organ"), ("a", "tumour"), ("b", "organ"), ("b", "tumour"),
    ]  # fmt: skip
    assert evaluation.problems == evaluation.unmatched == ()
    assert evaluation.scores[2].dice == pytest.approx(0.75)
    assert evaluation.mean_dice == pytest.approx((0.75 * 2 + 1) / 3, abs=0.15)
    assert evaluation.scores[3].state is State.BOTH_EMPTY


@pytest.mark.parametrize("tolerance_mm", [float("nan"), float("inf"), -1.0])
def test_a_tolerance_that_is_no_distance_is_refused(folders, tolerance_mm):
    with pytest.raises(ConfigError, match=f"a number of mm from 0 on, not {tolerance_mm:g}"):
        evaluate_folder(*folders, LABELS, tolerance_mm)


def test_the_folder_that_segment_writes_is_understood(folders, tmp_path):
    for case in "ab":
        write(tmp_path / "out" / "cases" / case / "mask.nii.gz", organ())
    write(tmp_path / "out" / "cases" / ".tmp-1-2-3" / "mask.nii.gz", organ())  # of a run that was killed
    evaluation = evaluate_folder(tmp_path / "out", folders[1], LABELS)
    assert (evaluation.cases, evaluation.unmatched) == (("a", "b"), ())


def test_true_masks_are_found_by_the_name_that_a_run_gave_the_scan(tmp_path):
    for case in ("liver_1", "liver 2", "other"):
        write(tmp_path / "out" / "cases" / case / "mask.nii.gz", organ())
    for name in ("liver 1", "liver 2", "else where"):
        write(tmp_path / "truth" / f"{name}.nii.gz", organ())
    evaluation = evaluate_folder(tmp_path / "out", tmp_path / "truth", LABELS)
    assert evaluation.unmatched == ("other",)
    assert {(case, state) for (case, target), state in states(evaluation).items() if target == "organ"} == {
        ("liver_1", State.SCORED),
        ("liver 2", State.SCORED),
        ("else where", State.MISSED),
    }


def test_true_masks_may_be_called_after_the_file_or_folder_of_the_scan(tmp_path):
    """As those of DICOM series are, whose cases have pseudonyms; one that may mean two cases means none."""
    sources = {
        "case-1": "liver_1",
        "case-2": "b/ct/series",
        "case-3": "both/one",
        "case-4": "both/two",
        "x": "=x.nii.gz",
    }
    for case in sources:
        write(tmp_path / "run" / "cases" / case / "mask.nii.gz", organ())
    write_csv(tmp_path / "run" / "cases.csv", ["case", "status"], [(case, "done") for case in sources])
    write_csv(tmp_path / "run" / "sources.csv", ["case", "source"], sources.items())
    for name in ("liver_1", "b", "both", "=x"):
        write(tmp_path / "truth" / f"{name}.nii.gz", organ())
    evaluation = evaluate_folder(tmp_path / "run", tmp_path / "truth", LABELS)
    assert evaluation.cases == ("case-1", "case-2", "x")
    assert evaluation.not_run == ("both",)
    assert evaluation.unmatched == ("case-3", "case-4")
    write(tmp_path / "truth" / "series.nii.gz", organ())  # a second mask of case-2
    assert evaluate_folder(tmp_path / "run", tmp_path / "truth", LABELS).not_run == ("b", "both", "series")


def test_true_masks_of_nnunet_lack_the_channel_number_of_their_scans(tmp_path):
    """A model of one channel takes each file as a case, and a pseudonym hides how the files of a case are called."""
    sources = {"liver_1_0000": "liver_1_0000.nii.gz", "case-2": "a/liver_2_0000.nii.gz"}
    for case in sources:
        write(tmp_path / "run" / "cases" / case / "mask.nii.gz", organ())
    write_csv(tmp_path / "run" / "cases.csv", ["case", "status"], [(case, "done") for case in sources])
    write_csv(tmp_path / "run" / "sources.csv", ["case", "source"], sources.items())
    for name in ("liver_1", "liver_2"):
        write(tmp_path / "labelsTs" / f"{name}.nii.gz", organ())
    assert evaluate_folder(tmp_path / "run", tmp_path / "labelsTs", LABELS).cases == ("case-2", "liver_1_0000")


def test_a_dataset_folder_stands_for_its_labels(folders, tmp_path):
    write(tmp_path / "dataset" / "labels" / "a.nii.gz", organ())
    write(tmp_path / "dataset" / "images" / "a.nii.gz", organ())
    assert find_masks(tmp_path / "dataset") == {"a": tmp_path / "dataset" / "labels" / "a.nii.gz"}


def test_a_missing_prediction_counts_as_missed_and_is_told(folders):
    complete = evaluate_folder(*folders, LABELS)
    (folders[0] / "b.nii.gz").unlink()
    evaluation = evaluate_folder(*folders, LABELS)
    assert states(evaluation)["b", "organ"] is State.MISSED
    assert states(evaluation)["b", "tumour"] is State.BOTH_EMPTY
    assert evaluation.problems == (("b", "there is no prediction: its structures count as missed"),)
    assert evaluation.mean_dice < complete.mean_dice
    missed = next(s for s in evaluation.scores if s.case == "b" and s.target == "organ")
    assert missed.hd95_mm == image_diagonal_mm(Grid((12, 10, 8), AFFINE))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:60]), "a.nii.gz", id="truncated"),
        pytest.param(
            lambda p: write(p, organ(), np.diag([1.0, 1.0, 3.0, 1.0])), "compare masks of the same", id="grid"
        ),
        pytest.param(lambda p: write(p, organ() * 9), r"holds values \[9\]", id="unknown value"),
    ],
)
def test_an_unusable_prediction_costs_only_its_case(folders, spoil, told):
    spoil(folders[0] / "a.nii.gz")
    evaluation = evaluate_folder(*folders, LABELS)
    assert states(evaluation)["a", "organ"] is State.MISSED
    assert states(evaluation)["b", "organ"] is State.SCORED
    ((case, message),) = evaluation.problems
    assert case == "a"
    assert re.search(told, message)


def test_an_unreadable_true_mask_is_told_and_not_scored(folders):
    (folders[1] / "a.nii.gz").write_bytes(b"nothing")
    evaluation = evaluate_folder(*folders, LABELS)
    assert evaluation.cases == ("b",)
    assert evaluation.problems[0][0] == "a"
    assert "not scored" in evaluation.problems[0][1]


def test_predictions_without_truth_are_named(folders):
    write(folders[0] / "z.nii.gz", organ())
    evaluation = evaluate_folder(*folders, LABELS)
    assert evaluation.unmatched == ("z",)
    assert evaluation.cases == ("a", "b")


def test_labels_are_found_when_none_are_given(folders):
    assert evaluate_folder(*folders).labels.targets == ("label_1", "label_2")


def test_a_list_of_pairs_needs_no_equal_names(folders):
    predictions, truths = folders
    pairs = [Pair("x", predictions / "a.nii.gz", truths / "b.nii.gz"), Pair("y", None, truths / "a.nii.gz")]
    evaluation = evaluate_pairs(pairs, LABELS)
    assert evaluation.cases == ("x", "y")
    assert states(evaluation)["x", "tumour"] is State.SPURIOUS


@pytest.mark.parametrize("fault", ["no folder", "no masks", "no match", "twice"])
def test_folders_that_do_not_fit_are_refused(folders, tmp_path, fault):
    predictions, truths = folders
    if fault == "no folder":
        predictions = tmp_path / "absent"
    elif fault == "no masks":
        predictions = tmp_path / "empty"
        predictions.mkdir()
    elif fault == "no match":
        for path in predictions.iterdir():
            path.rename(path.with_name(f"prediction_{path.name}"))
    else:
        write(predictions / "a.nii", organ())
    expected = {"no folder": "is not a folder", "no masks": "holds no mask", "twice": "two masks of case a"}
    with pytest.raises(DatasetError, match=expected.get(fault, "prediction_a, prediction_b against a, b")):
        evaluate_folder(predictions, truths, LABELS)


def test_scores_are_written_as_a_table_without_formulas(folders, tmp_path):
    pairs = [Pair("=cmd|x", folders[0] / "b.nii.gz", folders[1] / "b.nii.gz")]
    write_scores(evaluate_pairs(pairs, LABELS).scores, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["'=cmd|x"] * 2
    assert float(rows[0]["dice"]) == pytest.approx(0.75)
    assert rows[1]["state"] == "both_empty"
    assert rows[1]["dice"] == rows[1]["hd95_mm"] == ""


def test_small_volumes_are_no_zeros_in_the_table(tmp_path):
    """Micro-CT: 63 voxels of 0.004 mm."""
    path = tmp_path / "truths" / "a.nii.gz"
    write(path, organ(tumour=True), np.diag([0.004, 0.004, 0.004, 1.0]))
    write_scores(evaluate_pairs([Pair("a", path, path)], LABELS).scores, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as stream:
        (row, _) = csv.DictReader(stream)
    assert float(row["volume_ml"]) == pytest.approx(63 * 0.004**3 / 1000, rel=1e-5)


def test_summary_holds_means_states_and_problems(folders, tmp_path):
    (folders[0] / "b.nii.gz").unlink()
    evaluation = evaluate_folder(*folders, LABELS)
    write_summary(evaluation, tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["mean_dice"] == pytest.approx(evaluation.mean_dice)
    assert summary["targets"][0]["states"] == {"scored": 1, "missed": 1, "spurious": 0, "both_empty": 0}
    assert summary["problems"][0]["case"] == "b"


def test_the_table_fits_a_screen_and_shows_what_was_missed(folders):
    (folders[0] / "b.nii.gz").unlink()
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(evaluate_folder(*folders, LABELS)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("organ", "tumour", "Dice", "missed", "both", "mean"):
        assert word in text
    assert "spurious" not in text.replace("missed and spurious", "")


@pytest.mark.parametrize("name", ["organ", "anterior hippocampus"])
def test_the_table_names_its_rows_where_every_state_occurs(tmp_path, name):
    for case, (predicted, true) in enumerate([(1, 1), (0, 1), (1, 0), (0, 0)]):
        write(tmp_path / "p" / f"{case}.nii.gz", predicted * organ())
        write(tmp_path / "t" / f"{case}.nii.gz", true * organ())
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(evaluate_folder(tmp_path / "p", tmp_path / "t", LabelMap.parse({name: 1}))))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for word in (*name.split(), "Dice", "missed", "spurious", "empty"):
        assert word in text


def test_a_name_in_brackets_is_shown_and_not_taken_as_a_style(folders):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(evaluate_folder(*folders, LabelMap.parse({"[red]organ": 1, "tumour": 2}))))
    assert "[red]organ" in console.export_text()


def test_a_run_is_compared_on_the_scans_it_was_given(tmp_path):
    for case in ("done", "failed", "other"):
        write(tmp_path / "truth" / f"{case}.nii.gz", organ())
    write(tmp_path / "run" / "cases" / "done" / "mask.nii.gz", organ())
    (tmp_path / "run" / "cases.csv").write_text("case,status\ndone,done\nfailed,rejected\n")
    evaluation = evaluate_folder(tmp_path / "run", tmp_path / "truth")
    assert evaluation.cases == ("done", "failed")
    assert [case for case, _ in evaluation.problems] == ["failed"]
    assert evaluation.not_run == ("other",)
    assert evaluation.mean_dice == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("saved", "is_read"),
    [
        ("\ufeffcase,status\ndone,done\nfailed,rejected\n".encode(), True),  # as Excel saves it
        (b"case;status\ndone;done\nfailed;rejected\n", False),
        (b"case,status\ndone,done\nf\xe4iled,rejected\n", False),
    ],
)
def test_a_table_that_a_spreadsheet_saved_again_is_read_or_refused(tmp_path, saved, is_read):
    for case in ("done", "failed"):
        write(tmp_path / "truth" / f"{case}.nii.gz", organ())
        write(tmp_path / "run" / "cases" / case / "mask.nii.gz", organ())
    (tmp_path / "run" / "cases.csv").write_bytes(saved)
    if is_read:
        assert [case for case, _ in evaluate_folder(tmp_path / "run", tmp_path / "truth").problems] == ["failed"]
        return
    with pytest.raises(OutputError, match=r"cases\.csv.*segment again"):
        evaluate_folder(tmp_path / "run", tmp_path / "truth")


def test_a_run_that_could_segment_nothing_missed_everything(tmp_path):
    (tmp_path / "run" / "cases").mkdir(parents=True)
    (tmp_path / "run" / "cases.csv").write_text("case,status\na,rejected\nb,crashed\n")
    write(tmp_path / "truth" / "a.nii.gz", organ())
    evaluation = evaluate_folder(tmp_path / "run", tmp_path / "truth", LABELS)
    assert states(evaluation) == {("a", "organ"): State.MISSED, ("a", "tumour"): State.BOTH_EMPTY}
    assert evaluation.problems == (("a", "there is no prediction: its structures count as missed"),)
    (tmp_path / "truth" / "a.nii.gz").rename(tmp_path / "truth" / "c.nii.gz")
    with pytest.raises(DatasetError, match=r"\(a, b against c\)"):
        evaluate_folder(tmp_path / "run", tmp_path / "truth", LABELS)


def test_a_mask_of_an_earlier_run_is_no_prediction_of_a_case_that_failed_since(tmp_path):
    for case in ("done", "failed"):
        write(tmp_path / "truth" / f"{case}.nii.gz", organ())
        write(tmp_path / "run" / "cases" / case / "mask.nii.gz", organ())
    (tmp_path / "run" / "cases.csv").write_text("case,status\ndone,done_with_flags\nfailed,timeout\n")
    evaluation = evaluate_folder(tmp_path / "run", tmp_path / "truth")
    assert states(evaluation) == {("done", "label_1"): State.SCORED, ("failed", "label_1"): State.MISSED}
    assert [case for case, _ in evaluation.problems] == ["failed"]
