"""What augmentation costs: `make bench` begins with it, so it must run with the data classes of today."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "augmentation.py"


def test_every_change_is_timed(tmp_path):
    result = tmp_path / "result.json"
    command = [sys.executable, SCRIPT, "--patch=8,8,8", "--samples=1", f"--json={result}"]
    subprocess.run(command, check=True, capture_output=True)
    timed = json.loads(result.read_text())["ms_a_sample"]["8x8x8"]
    assert {"default", "read only", "elastic"} <= timed.keys()
    assert all(times["mean"] > 0 for times in timed.values())
