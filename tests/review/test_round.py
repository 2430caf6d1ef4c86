"""A round with tiny networks: what is learnt, refused, promoted, segmented again, exported, and gone on with."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.batch.segment_folder import segment_folder
from medseg.catalog.datasets import read_dataset
from medseg.config import DatasetConfig, ExperimentConfig, SegmentConfig
from medseg.errors import DatasetError, OutputError
from medseg.labels import LabelMap
from medseg.networks.model import load_model, save_model
from medseg.review.dataset import write_joined
from medseg.review.export import export_review
from medseg.review.folder import open_review, write_manifest
from medseg.review.importing import ImportTerms, import_submission
from medseg.review.round import Corrections, RoundOptions, RoundResult, gather_corrections, review_round
from medseg.review.submissions import Submission
from medseg.training import fine_tuning
from medseg.training.fine_tuning import Wishes, experiment_of, for_fine_tuning
from medseg.training.promotion import Verdict
from medseg.training.run import RunOptions, run_training

from ..training.conftest import write_case

TERMS = ImportTerms(b"k" * 32, {})
SCRIPT = Path(__file__).parents[2] / "pipelines" / "review_round.py"
LABELLED, HELD_OUT, SCANS = ("a0", "a1", "a2", "a3"), ("v0",), ("u0", "u1", "u2")


@pytest.fixture(scope="session")
def begun(tmp_path_factory) -> Path:
    """A folder with data/, scans/, model/ (of two steps) and review/, to be copied."""
    root = tmp_path_factory.mktemp("round")
    for seed, name in enumerate((*LABELLED, *HELD_OUT)):
        write_case(root / "data", name, seed)
    for seed, name in enumerate(SCANS):
        write_case(root / "others", name, 10 + seed)
    shutil.copytree(root / "others" / "images", root / "scans")
    shutil.copytree(root / "others" / "images", root / "data" / "images", dirs_exist_ok=True)
    (root / "data" / "splits.json").write_text(json.dumps({"train": LABELLED, "held_out": HELD_OUT}))
    config = ExperimentConfig.model_validate(
        {
            "name": "blobs",
            "dataset": {
                "folder": str(root / "data"),
                "labels": {"dim": 1, "bright": 2},
                "splits": "splits.json",
                "train": "train",
                "validation": "held_out",
                "modality": "mr",
            },
            "plan": {"patch": [16, 16, 16], "batch": 2},
            "network": {"features": 4, "max_features": 8},
            "training": {"steps": 2, "warmup_steps": 0, "precision": "float32", "loader_threads": 0},
        }
    )
    run = run_training(config, root / "first", RunOptions(device="cpu"))
    shutil.move(run.model, root / "model")
    settings = SegmentConfig(key=root / "key", device="cpu", workers=0)
    segment_folder(root / "scans", root / "model", root / "results", settings)
    export_review(root / "results", root / "scans", root / "review", config=settings)
    return root


@pytest.fixture
def root(begun, tmp_path) -> Path:
    """A copy whose review folder nobody has worked on."""
    for name in ("data", "scans", "model", "review"):
        shutil.copytree(begun / name, tmp_path / name)
    shutil.copy(begun / "key", tmp_path / "key")
    return tmp_path


def accept(root: Path, *cases: str) -> None:
    for case in cases:
        import_submission(open_review(root / "review"), Submission(case, "accepted"), TERMS)


def experiment(root: Path, **dataset: object) -> ExperimentConfig:
    config = for_fine_tuning(experiment_of(root / "model"), Wishes(steps=2))
    changed = config.dataset.model_copy(update={"folder": root / "data", **dataset})
    return config.model_copy(update={"dataset": changed})


def go(root: Path, config: ExperimentConfig | None = None, **options: object) -> RoundResult:
    return review_round(
        root / "review", config or experiment(root), root / "model", root / "round", options_of(root, **options)
    )


def options_of(root: Path, max_seconds: float | None = None, **options: object) -> RoundOptions:
    settings = SegmentConfig(key=root / "key", device="cpu", workers=0)
    return RoundOptions(RunOptions(device="cpu", max_seconds=max_seconds), segment=settings, **options)


@pytest.fixture
def decide(monkeypatch):
    """Return a function that settles whether the fine-tuned networks pass."""
    return lambda passed: monkeypatch.setattr(fine_tuning, "compare", lambda *_: Verdict(passed, "told"))


def test_a_promoted_model_asks_for_the_rest(root, decide):
    decide(True)
    accept(root, "u0", "u2")
    (root / "scans" / "u2.nii.gz").rename(root / "scans" / "renamed.nii.gz")
    result = go(root, scans=root / "scans")
    assert result.model == root / "round" / "fine_tuning" / "run" / "model"
    assert load_model(result.model).provenance["training_cases"] == [*LABELLED, "u0", "u2"]
    assert {row.case for row in result.segmented.results} == {"u0", "u1", "renamed"}
    following = open_review(root / "round" / "review")
    assert [case.case for case in following.manifest.cases] == ["u1"], "labelled cases are not asked for again"
    assert (root / "round" / "results" / "report.html").is_file()
    told = json.loads((root / "round" / "fine_tuning" / "promotion.json").read_text())
    assert told["new"] == ["u0", "u2"]
    assert told["earlier"] == list(LABELLED)
    assert {row["case"] for row in told["before"]} == set(HELD_OUT)


def test_a_reviewed_case_is_not_asked_for_again_under_the_name_of_its_file(root, decide):
    """A DICOM series has a pseudonym; its scan in the review folder is a NIfTI file, with another name and digest."""
    decide(True)
    folder = open_review(root / "review")
    (root / "review" / "scans" / "u0.nii.gz").rename(root / "review" / "scans" / "other.nii.gz")
    place = {"images": ("scans/other.nii.gz",), "shown": "scans/other.nii.gz", "source": "of the series"}
    cases = tuple(c.model_copy(update=place if c.case == "u0" else {}) for c in folder.manifest.cases)
    write_manifest(folder.path, folder.manifest.model_copy(update={"cases": cases}))
    accept(root, "u0")
    assert set(go(root).exported.cases) == {"u1", "u2"}


def test_the_next_round_starts_from_this_ones_dataset(root, decide):
    decide(True)
    accept(root, "u0")
    result = go(root)
    joined = read_dataset(DatasetConfig(folder=root / "round" / "dataset"))
    assert joined.train == (*LABELLED, "u0")
    assert joined.validation == HELD_OUT
    assert {case.id for case in joined.unlabelled} == {"u1", "u2"}
    shutil.move(root / "round" / "review", root / "review_2")
    import_submission(open_review(root / "review_2"), Submission("u1", "accepted"), TERMS)
    config = experiment_of(result.model)
    config = config.model_copy(
        update={"dataset": config.dataset.model_copy(update={"folder": root / "round" / "dataset"})}
    )
    again = review_round(root / "review_2", config, result.model, root / "round_2", options_of(root))
    assert again.fine_tuned.earlier == (*LABELLED, "u0")
    assert again.fine_tuned.new == ("u1",)


def test_the_old_model_stays_where_the_new_one_is_worse(root, decide):
    decide(False)
    accept(root, "u0")
    result = go(root)
    assert result.model == root / "model"
    assert not result.fine_tuned.promoted
    assert result.fine_tuned.reason == "told"
    assert result.segmented is None
    assert not (root / "round" / "results").exists()


def test_a_killed_round_goes_on_and_what_is_done_is_not_done_again(root, decide, monkeypatch):
    decide(True)
    accept(root, "u0")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medseg.review.round.segment_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            go(root)
    monkeypatch.setattr(fine_tuning, "run_training", killed)
    result = go(root)
    assert set(result.exported.cases) == {"u1", "u2"}
    assert [row.was_done for row in go(root).segmented.results] == [True] * 3


def test_time_that_runs_out_leaves_a_round_to_go_on_with(root, decide):
    decide(True)
    accept(root, "u0")
    stopped = go(root, max_seconds=1e-3)
    assert stopped.fine_tuned is None
    assert stopped.model == root / "model"
    assert go(root).fine_tuned.promoted


def test_verdicts_that_come_after_the_beginning_need_another_folder(root, decide):
    decide(False)
    accept(root, "u0")
    go(root)
    table = (root / "round" / "dataset" / "cases.csv").read_bytes()
    accept(root, "u1")
    with pytest.raises(OutputError, match="other corrections"):
        go(root)
    assert (root / "round" / "dataset" / "cases.csv").read_bytes() == table


def test_nothing_reviewed_yet(root):
    with pytest.raises(DatasetError, match="none of its 3 cases is accepted or corrected yet"):
        go(root)
    assert not (root / "round").exists()


def test_a_held_out_case_is_refused_by_name_and_by_contents(root):
    accept(root, "u0")
    shutil.copy(root / "data" / "labels" / "a0.nii.gz", root / "data" / "labels" / "u0.nii.gz")
    with pytest.raises(DatasetError, match="1 reviewed cases are held out for measuring: u0"):
        go(root, experiment(root, validation=["u0"]))
    for kind in ("images", "labels"):
        (root / "data" / kind / "u0.nii.gz").rename(root / "data" / kind / "renamed.nii.gz")
    with pytest.raises(DatasetError, match="held out for measuring: u0"):
        go(root, experiment(root, validation=["renamed"]))


def test_every_copy_of_a_held_out_scan_is_refused(root):
    folder = open_review(root / "review")
    source = folder.case("u0").source
    copies = tuple(case.model_copy(update={"source": source}) for case in folder.manifest.cases)
    write_manifest(folder.path, folder.manifest.model_copy(update={"cases": copies}))
    accept(root, "u0", "u1")
    for kind, name in (("images", "u0"), ("labels", "a0")):
        shutil.copy(root / "data" / kind / f"{name}.nii.gz", root / "data" / kind / "renamed.nii.gz")
    original = read_dataset(experiment(root, validation=["renamed"]).dataset)
    with pytest.raises(DatasetError, match="2 reviewed cases are held out for measuring: u0, u1"):
        gather_corrections(open_review(root / "review"), original)


def test_a_mask_that_the_dataset_has_stays(root):
    accept(root, "u0", "u1")
    shutil.copy(root / "data" / "labels" / "a0.nii.gz", root / "data" / "labels" / "u0.nii.gz")
    original = read_dataset(experiment(root, train=[*LABELLED, "u0"]).dataset)
    found = gather_corrections(open_review(root / "review"), original)
    assert found == Corrections(found.new, ("u0",), ())
    assert [case.id for case in found.new] == ["u1"]
    with pytest.raises(DatasetError, match="all 2 reviewed cases are labelled in the dataset already"):
        gather_corrections(open_review(root / "review"), replace(original, train=(*LABELLED, "u0", "u1")))


def test_a_corrected_scan_takes_the_place_of_the_unlabelled_one_of_another_name(root):
    accept(root, "u0")
    images = root / "data" / "images"
    (images / "u0.nii.gz").rename(images / "renamed.nii.gz")
    original = read_dataset(experiment(root, patients="^(.)").dataset)
    found = gather_corrections(open_review(root / "review"), original)
    assert ([case.patient for case in found.new], found.replaced) == (["r"], {"renamed"})
    write_joined(root / "joined", original, found.new, found.replaced)
    joined = read_dataset(experiment(root, folder=root / "joined", splits=None, train=None, validation=None).dataset)
    assert {case.id for case in original.cases} - {case.id for case in joined.cases} == {"renamed"}
    assert "u0" in joined.train


def test_cases_in_conflict_wait(root):
    accept(root, "u1")
    review = open_review(root / "review")
    import_submission(review, Submission("u0", "accepted", reviewer="ann"), TERMS)
    import_submission(review, Submission("u0", "rejected", reviewer="bob"), TERMS)
    found = gather_corrections(review, read_dataset(experiment(root).dataset))
    assert found.in_conflict == ("u0",)
    assert [case.id for case in found.new] == ["u1"]


def test_labels_must_be_the_models(root):
    accept(root, "u0")
    with pytest.raises(DatasetError, match="the labels of the dataset .* are not those of the review"):
        go(root, experiment(root, labels={"dark": 1, "bright": 2}))
    model = load_model(root / "model")
    save_model(replace(model, labels=LabelMap.parse({"dark": 1, "bright": 2})), root / "model")
    with pytest.raises(DatasetError, match="the labels of the model"):
        go(root, experiment(root))


def test_a_single_labelled_case_is_too_few_to_measure_by(root):
    accept(root, "u0")
    with pytest.raises(DatasetError, match="too few patients have earlier labelled cases to cross-validate: 1"):
        go(root, experiment(root, train=["a0"], validation=[]))
    assert not (root / "round" / "fine_tuning").exists()


def test_results_may_not_lie_among_the_scans(root):
    accept(root, "u0")
    with pytest.raises(OutputError, match="inside the scan folder"):
        go(root, scans=root)


def test_the_script_tells_a_round(root, decide, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("review_round_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words = ["round", root / "review", root / "data", root / "model", root / "round", "--steps", "2", "--first", "1"]
    options = ["--key", root / "key", "--device", "cpu", "--workers", "0", "--freeze-encoder"]
    monkeypatch.setattr("sys.argv", [str(word) for word in (*words, *options)])
    asked = script.arguments()
    config = script.configuration(asked)
    assert config.training.freeze_encoder
    accept(root, "u0")
    decide(True)
    assert script.main(asked.review, config, asked.model, asked.output, script.how(asked)) == 0
    told = capsys.readouterr().out
    assert "1 reviewed cases are new: u0" in told
    assert "promoted: told" in told
    assert "next: 1 cases to review" in told
