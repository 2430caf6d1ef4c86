"""bf16 where the processor gains by it."""

from __future__ import annotations

import pytest
import torch

from medseg.networks import arithmetic
from medseg.networks.arithmetic import bf16_pays


@pytest.mark.parametrize(
    ("name", "avx512_bf16", "amx", "pays"),
    [
        ("AMD EPYC 9J14", True, False, True),
        ("Intel(R) Xeon(R) Processor", True, False, False),
        ("Intel(R) Xeon(R) Processor", True, True, True),
        ("AMD EPYC 7763", False, False, False),
    ],
)
def test_bf16_pays_where_it_is_more_than_there(monkeypatch, name, avx512_bf16, amx, pays):
    monkeypatch.setattr(arithmetic, "processor", lambda: name)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert bf16_pays() is pays
