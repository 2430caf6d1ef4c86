"""What users get wrong ends in one clear sentence: no traceback, nothing half-written, exit code 2."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from .conftest import write_scan


def sentence(result) -> str:
    """The one line that an error prints."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in result.output
    return lines[0]


def damage(model, tmp_path, kind):
    folder = tmp_path / "damaged"
    folder.mkdir()
    if kind == "empty":
        return folder
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if kind == "cut weights":
        (folder / "weights.safetensors").write_bytes((model / "weights.safetensors").read_bytes()[:1000])
    elif kind == "newer":
        record = json.loads((model / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**record, "schema_version": 99}))
    elif kind == "pickle":
        (folder / "weights.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    return folder


@pytest.mark.parametrize(
    ("kind", "says"),
    [("empty", "model.json"), ("cut weights", "damaged"), ("newer", "newest medseg"), ("pickle", "pickle")],
)
def test_a_wrong_model_folder(medseg, model, scans, tmp_path, kind, says):
    result = medseg("segment", scans, "-m", damage(model, tmp_path, kind), "-o", tmp_path / "out")
    assert says in sentence(result)


def test_a_missing_scan_folder(medseg, model, tmp_path):
    assert "nowhere" in sentence(medseg("segment", tmp_path / "nowhere", "-m", model, "-o", tmp_path / "out"))
    assert "nowhere" in sentence(medseg("index", tmp_path / "nowhere"))


@pytest.mark.parametrize("place", ["results", "."])
def test_output_inside_the_scans(medseg, model, scans, place):
    before = sorted(scans.rglob("*"))
    assert "inside the scan folder" in sentence(medseg("segment", scans, "-m", model, "-o", scans / place))
    assert sorted(scans.rglob("*")) == before


def test_output_inside_the_scans_through_a_link(medseg, model, scans, tmp_path):
    (tmp_path / "link").symlink_to(scans)
    assert "inside the scan folder" in sentence(medseg("segment", scans, "-m", model, "-o", tmp_path / "link" / "out"))


@pytest.mark.parametrize("place", ["file/out", "/proc/medseg"])
def test_output_that_cant_be_written(medseg, model, scans, tmp_path, place):
    (tmp_path / "file").write_text("")
    assert "can't write" in sentence(medseg("segment", scans, "-m", model, "-o", tmp_path / place))


def test_a_gpu_that_is_not_there(medseg, model, scans, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = medseg("segment", scans, "-m", model, "-o", tmp_path / "out", "--device", "cuda")
    assert "cuda" in sentence(result)
    assert "unknown" in sentence(medseg("segment", scans, "-m", model, "-o", tmp_path / "out", "--device", "gpu"))


def test_an_overlap_out_of_bounds(medseg, model, scans, tmp_path):
    result = medseg("segment", scans, "-m", model, "-o", tmp_path / "out", "--overlap", "1.5")
    assert result.exit_code == 2
    assert "--overlap" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "training.stepps=5"], "training.stepps"),
        (["--set", "training.steps=many"], "training.steps"),
        (["--set", "training"], "section.field=value"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--data", "nowhere"], "nowhere"),
        (["--folds", "1"], "fold"),
    ],
)
def test_a_wrong_configuration(medseg, tmp_path, words, says):
    assert says in sentence(medseg("train", "--output", tmp_path / "run", *words))


@pytest.fixture
def dataset(tmp_path):
    """Four labelled cases, and a function that writes one more or changes one."""
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)

    def write(name, image=None, mask=None, affine=None):
        image = rng.normal(0, 1, (12, 12, 12)).astype(np.float32) if image is None else image
        for kind, array in (("images", image), ("labels", mask)):
            if array is not None:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                placed = np.eye(4) if affine is None or kind == "images" else affine
                nib.save(nib.Nifti1Image(array, placed), folder / kind / f"{name}.nii.gz")

    for number in range(4):
        write(f"case_{number}", mask=cube(1))
    write.folder = folder
    return write


def cube(value, shape=(12, 12, 12)):
    mask = np.zeros(shape, np.uint8)
    mask[3:8, 3:8, 3:8] = value
    return mask


def train(medseg, dataset, tmp_path, *overrides):
    words = [word for override in overrides for word in ("--set", override)]
    return medseg("train", "--data", dataset.folder, "--output", tmp_path / "run", *words)


def test_a_mask_with_unknown_labels(medseg, dataset, tmp_path):
    dataset("case_4", mask=cube(7))
    said = sentence(train(medseg, dataset, tmp_path, "dataset.labels={organ: 1}", "dataset.modality=mr"))
    assert "case_4" in said
    assert "7" in said


def test_a_mask_on_another_grid(medseg, dataset, tmp_path):
    dataset("case_4", mask=cube(1), affine=np.diag([1, 1, 1.5, 1]))
    said = sentence(train(medseg, dataset, tmp_path, "dataset.labels={organ: 1}", "dataset.modality=mr"))
    assert "case_4" in said
    assert "grid" in said


def test_an_organ_in_no_mask(medseg, dataset, tmp_path):
    said = sentence(train(medseg, dataset, tmp_path, "dataset.labels={organ: 1, ghost: 2}", "dataset.modality=mr"))
    assert "ghost" in said


def test_a_label_only_in_held_out_cases(medseg, dataset, tmp_path):
    dataset("case_4", mask=cube(2))
    overrides = ("dataset.labels={organ: 1, rare: 2}", "dataset.modality=mr", "dataset.validation=[case_4]")
    assert "rare" in sentence(train(medseg, dataset, tmp_path, *overrides))


def test_no_labelled_case(medseg, tmp_path):
    write_scan(tmp_path / "data" / "images" / "case.nii.gz")
    result = medseg("train", "--data", tmp_path / "data", "--output", tmp_path / "run")
    assert "label" in sentence(result)


def test_an_empty_dataset(medseg, tmp_path):
    (tmp_path / "data").mkdir()
    sentence(medseg("train", "--data", tmp_path / "data", "--output", tmp_path / "run"))


def test_wishes_that_nothing_would_come_of(medseg, dataset, model, tmp_path):
    said = sentence(medseg("train", "--data", tmp_path, "--lambda", 0.5, "-o", tmp_path / "run"))
    assert "--lambda" in said
    assert "give --method" in said
    said = sentence(medseg("prune", model, "-o", tmp_path / "run", "--steps", 7))
    assert "needs --data" in said
    assert not (tmp_path / "run").exists()


def test_a_scan_among_the_masks(medseg, tmp_path):
    scan = nib.load(write_scan(tmp_path / "data" / "images" / "case.nii.gz"))
    values = np.arange(np.prod(scan.shape), dtype=np.int64).reshape(scan.shape) % 200
    (tmp_path / "data" / "labels").mkdir()
    nib.save(nib.Nifti1Image(values.astype(np.uint8), scan.affine), tmp_path / "data" / "labels" / "case.nii.gz")
    result = medseg("train", "--data", tmp_path / "data", "--output", tmp_path / "run")
    assert "199 values, up to 199: is a scan among them" in sentence(result)


def test_a_splits_file_that_the_configuration_brought_along(medseg, dataset, tmp_path):
    said = sentence(train(medseg, dataset, tmp_path, "dataset.splits=splits.json", "dataset.labels={organ: 1}"))
    assert "splits.json: there is no such file" in said
    assert "--set dataset.splits=null" in said


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("training.stps", ", but there is training.steps;"),
        ("steps", ", but there is training.steps, pretraining.steps;"),
        ("trainig.steps", ", but there is training;"),
        ("training.zzz", ";"),
    ],
)
def test_an_unknown_field_names_what_it_resembles(medseg, tmp_path, wrong, right):
    said = sentence(medseg("train", "--data", tmp_path, "-o", tmp_path / "run", "--set", f"{wrong}=3"))
    assert f"there is no such field{right} see docs/configuration.md" in said


def test_a_wrong_word_is_named_with_the_right_ones(medseg, model, scans, tmp_path):
    said = sentence(medseg("segment", scans, "-m", model, "-o", tmp_path / "out", "--formats", "dicomseg"))
    assert "formats.0: 'dicomseg' is none of 'nifti', 'seg-nrrd'" in said


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", "taken"), ("no.such.host.invalid", 8123)])
def test_an_address_that_can_not_be_listened_on(medseg, model, scans, tmp_path, host, port):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1] if port == "taken" else port
        said = sentence(
            medseg("serve", "--studies", scans, "-m", model, "-o", tmp_path / "out", "--host", host, "--port", number)
        )
    assert f"{host}, port {number}: can't listen there" in said


def test_evaluating_nothing(medseg, tmp_path):
    (tmp_path / "a").mkdir()
    assert "no mask" in sentence(medseg("evaluate", tmp_path / "a", tmp_path / "a"))


def test_letters_that_the_output_can_not_hold_end_no_run(tmp_path):
    """On Windows, what goes into a file has the letters of one alphabet."""
    (tmp_path / "患者.nii").write_bytes(b"")
    command = [sys.executable, "-m", "medseg", "index", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 3, done.stderr
    assert b"refused ??.nii (NOT_A_SCAN)" in done.stdout


def test_debug_shows_the_traceback(medseg, model, tmp_path):
    from medseg.errors import MedsegError

    with pytest.raises(MedsegError):
        medseg("--debug", "segment", tmp_path / "nowhere", "-m", model, "-o", tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are Unix's")
def test_a_full_disk(model, scans, tmp_path):
    """A limit on the size of files stands in for the disk: writing fails in the same place."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "medseg", "segment", scans, "-m", model, "-o", output]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert "can't write" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in output.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
@pytest.mark.parametrize("kind", ["full", "closed"])
def test_output_that_nobody_can_read_ends_no_work(scans, tmp_path, kind):
    command = list(map(str, [sys.executable, "-m", "medseg", "convert", scans, "-o", tmp_path / "out"]))
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, os.fdopen(writer, "w") as closed:
        shown = {"full": full, "closed": closed}[kind]
        done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = "Error: not all that is to be shown can be written (No space left on device); the work goes on\n"
    assert done.stderr == (told if kind == "full" else "")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3
    assert (tmp_path / "out" / "conversion.csv").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
@pytest.mark.parametrize("stderr", ["/dev/full", "closed"])
def test_an_error_that_can_not_be_told_keeps_its_exit_code(tmp_path, stderr):
    redirected = "2>&-" if stderr == "closed" else f"2>{stderr}"
    command = f"{sys.executable} -m medseg index {tmp_path / 'nowhere'} {redirected}"
    assert subprocess.run(command, shell=True, check=False).returncode == 2


@pytest.mark.parametrize("verb", ["index", "report", "evaluate", "convert"])
def test_a_path_that_the_system_refuses(medseg, tmp_path, verb):
    path = tmp_path / ("long" * 100)
    more = {"evaluate": [path], "convert": ["-o", tmp_path / "out"]}
    sentence(medseg(verb, path, *more.get(verb, [])))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal")
@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_lost_connection_ends_work_in_order_unless_nohup_was_said(tmp_path, is_ignored):
    code = (
        "import sys, time\nimport medseg.catalog.index\nfrom medseg.cli import main\n"
        "medseg.catalog.index.index_scans = lambda *_, **__: print('at work', flush=True) or time.sleep(60)\n"
        "sys.argv = ['medseg', 'index', '.']\nmain()"
    )
    handler = signal.SIG_IGN if is_ignored else signal.SIG_DFL
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, handler),
    )
    assert run.stdout.readline() == "at work\n"
    run.send_signal(signal.SIGHUP)
    if is_ignored:
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.5)
        run.terminate()
    told = run.communicate(timeout=30)[1]
    assert run.returncode == 130
    assert told == "Error: stopped; the same command goes on from what is done\n"
