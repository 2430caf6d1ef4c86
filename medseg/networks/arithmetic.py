"""Which arithmetic this processor is fastest with."""

from __future__ import annotations

import torch

from medseg.provenance import processor


def bf16_pays() -> bool:
    """Whether this CPU is faster with bf16 than with float32; without instructions for it, bf16 is emulated.

    With AVX512_BF16 an AMD EPYC multiplies twice as many bf16 numbers a cycle, an Intel Xeon without AMX (or with AMX
    hidden by a virtual machine) no more than float32 ones, and converts them besides. A 96³ window on two cores
    (float32, bf16): AMD EPYC 0.74 and 0.36 s, Intel Xeon 0.56 and 0.71 s (November 2026, torch 2.13).
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and not processor().startswith("Intel")
