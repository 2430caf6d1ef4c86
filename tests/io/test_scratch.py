"""Scratch folders: for their owner only, gone at the end, and those of killed processes gone at the next run."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import pytest

from medseg.errors import OutputError
from medseg.io.scratch import scratch_folder

needs_posix = pytest.mark.skipif(os.name != "posix", reason="permissions and locks of POSIX")


def test_it_is_private_and_wiped_even_after_an_error(tmp_path):
    def work(folder):
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "scan").write_text("x")
        if os.name == "posix":
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "new") as folder:
        work(folder)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_place_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--workdir"), scratch_folder(tmp_path / "file"):
        pass


@needs_posix
def test_the_folder_of_a_killed_process_is_wiped_and_that_of_a_living_one_is_not(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from medseg.io.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'scan').write_text('x'); print(folder, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout.readline()
        (theirs,) = tmp_path.iterdir()
        with scratch_folder(tmp_path) as ours:
            assert sorted(tmp_path.iterdir()) == sorted([ours, theirs])
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (theirs / "scan").exists()
    with scratch_folder(tmp_path) as ours:
        assert list(tmp_path.iterdir()) == [ours]


@needs_posix
def test_a_folder_that_was_killed_while_it_was_wiped_is_wiped_by_the_next_run(tmp_path):
    half = tmp_path / "medseg-scratch-half"
    half.mkdir()
    (half / "scan").write_text("x")  # its lock went first
    with scratch_folder(tmp_path) as ours:
        assert list(tmp_path.iterdir()) == [ours]


@needs_posix
def test_a_link_that_looks_abandoned_is_left_alone(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / ".lock").write_text("")
    (tmp_path / "medseg-scratch-x").symlink_to(tmp_path / "precious")
    with scratch_folder(tmp_path):
        pass
    assert (tmp_path / "precious" / ".lock").exists()
