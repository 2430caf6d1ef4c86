"""The example for Slurm gives each task its shard, says how it ended, and is queued again before its time is over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import typer

from medseg.cli.app import app

CLUSTER = Path(__file__).parents[2] / "configs" / "cluster"
TASK = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}


@pytest.fixture
def start(tmp_path):
    """Return a function that runs a script as Slurm would, with programs that write down how they were called."""
    for name in ("medseg", "scontrol"):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\necho "$@" >>{tmp_path}/{name}.calls\nsleep ${{SLEEP:-0}}\nexit ${{END:-0}}\n')
        program.chmod(0o755)

    def start(script: str, *arguments: str, **settings: str) -> subprocess.Popen:
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.Popen(["bash", CLUSTER / script, *arguments], env={"PATH": path, **TASK, **settings})

    return start


def calls(folder: Path, program: str) -> list[str]:
    path = folder / f"{program}.calls"
    return path.read_text().splitlines() if path.exists() else []


def test_each_task_does_its_shard_and_tells_how_it_ended(start, tmp_path):
    assert start("segment.sbatch", "my scans", "model", "out", END="1").wait() == 1
    assert start("segment.sbatch", "s", "m", "o", SHARDS="20", MEDSEG_KEY="k").wait() == 0
    first, second = calls(tmp_path, "medseg")
    assert first.startswith("segment my scans --model model --output out --shard 3/8 --case-timeout 3600")
    assert "--shard 3/20" in second
    assert second.endswith("--key k")
    assert not calls(tmp_path, "scontrol")


def test_before_its_time_is_over_it_is_queued_again(start, tmp_path):
    run = start("segment.sbatch", "s", "m", "o", SLEEP="2")
    while not calls(tmp_path, "medseg"):
        time.sleep(0.02)
    run.send_signal(signal.SIGUSR1)
    assert run.wait(60) == 0
    assert calls(tmp_path, "scontrol") == ["requeue 7_3"]


def test_a_last_job_unites(start, tmp_path):
    assert start("unite.sbatch", "out").wait() == 0
    assert calls(tmp_path, "medseg") == ["unite out"]


def test_the_options_of_the_example_exist():
    words = set(
        re.findall(r"(?<= )--[a-z-]+(?= )", (CLUSTER / "segment.sbatch").read_text().split("medseg segment")[1])
    )
    assert {"--shard", "--case-timeout", "--model"} <= words
    options = typer.main.get_command(app).commands["segment"].params
    assert words <= {name for option in options for name in option.opts}
