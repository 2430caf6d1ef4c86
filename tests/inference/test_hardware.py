"""Devices, precision, threads and the allocator."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from medseg.errors import ConfigError
from medseg.inference import hardware
from medseg.inference.hardware import (
    choose_device,
    choose_dtype,
    fit_threads,
    keep_memory,
    usable_memory,
)

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match=rf"'{name}' was asked for, but torch sees 0 GPU"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "", "mps", "cuda:x"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ConfigError, match="write auto, cpu, cuda"):
        choose_device(name)


def test_auto_is_what_there_is():
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU


def test_auto_precision_is_bf16_only_where_it_pays(monkeypatch):
    monkeypatch.setattr(hardware, "bf16_pays", lambda: True)
    assert choose_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(hardware, "bf16_pays", lambda: False)
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_the_allocator_listens_and_changes_no_number():
    """In a process of its own, because the setting stays."""
    code = (
        "import torch; from medseg.inference.hardware import keep_memory;"
        "x = torch.ones(64, 1000, 1000); y = x.sum(); print(keep_memory(), bool((x * 2).sum() == 2 * y))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "True"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory() is False


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", sys.maxsize), ("junk", sys.maxsize)]
)
def test_a_containers_quota_limits_the_threads(tmp_path, monkeypatch, quota, cores):
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    monkeypatch.setattr(hardware, "CPU_QUOTA", path)
    assert hardware._quota_cores() == cores


def test_threads_are_lowered_never_raised():
    before = torch.get_num_threads()
    try:
        assert fit_threads(1) == 1
        assert torch.get_num_threads() == 1
        assert fit_threads(64) == 1
    finally:
        torch.set_num_threads(before)


def test_each_worker_gets_the_next_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(name, number) for name, number in (("auto", 0), ("auto", 1), ("cuda", 2))] == [
        torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cuda:0"),
    ]  # fmt: skip
    assert choose_device("cuda:1", 0) == torch.device("cuda:1")
    assert choose_device("cpu", 1) == CPU


@pytest.mark.parametrize(("text", "expected"), [("1000000\n", 1_000_000), ("max\n", None)])
def test_memory_is_what_the_container_grants(monkeypatch, tmp_path, text, expected):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(hardware, "MEMORY_LIMITS", ())
    whole = usable_memory()
    assert whole > 1e8
    limit.write_text(text)
    monkeypatch.setattr(hardware, "MEMORY_LIMITS", (tmp_path / "not there", limit))
    assert usable_memory() == (expected or whole)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_the_peak_is_that_since_the_reset():
    """In a process of its own: in this one the allocator may hold freed memory that it hands out again."""
    script = """
import torch
from medseg.inference.hardware import peak_memory_mb, reset_peak_memory
cpu = torch.device("cpu")
big = torch.ones(100_000_000)
del big
reset_peak_memory(cpu)
before = peak_memory_mb(cpu)["resident"]
again = torch.ones(50_000_000)
print(peak_memory_mb(cpu)["resident"] - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(200, abs=60)
