"""The queue of scans: a benchmark made for GPUs must run on what a test has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "performance" / "segment_queue.py"
SMALL = ["--cases=3", "--shape", "96", "96", "64", "--classes=3", "--features", "4", "8", "--window=32", "--steps=2"]


def test_every_case_of_the_queue_is_segmented_and_told(tmp_path):
    result = tmp_path / "result.json"
    command = [sys.executable, SCRIPT, *SMALL, "--folder", tmp_path / "work", "--result", result]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(result.read_text())
    assert found["cases"] == 3
    assert found["seconds_a_case"] > 0
    assert found["inferring_share"] > 0
    assert found["stages_s"]["forward"] > 0
    assert found["network_alone"]["seen"] == found["network_alone"]["windows"] == 27
    assert found["memory_mb"]["resident"] > 0
    assert len(list((tmp_path / "work" / "output" / "cases").glob("*/mask.nii.gz"))) == 3
