"""Weights on disk: float16 safetensors, and refusals of everything else, each with its own sentence.

Notes
-----
Float16 halves the file (5.6 M weights: 11 MB). Rounding moves a weight by at most 2^-11 of itself;
`tests/networks/test_model.py` holds what that does to the logits, and bf16 arithmetic rounds eight
times more coarsely.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medseg.errors import ModelError

PICKLE_MARKS = (b"PK\x03\x04", b"\x80")
"""How files of `torch.save` and of pickle begin. Loading one may run any code, so none is loaded."""


def write_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as `half` made them."""
    path.write_bytes(save(dict(tensors)))  # save_file's files are readable by their owner alone


def half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's state on the CPU, floats as float16.

    Raises
    ------
    ModelError
        If a weight is not finite, or too large for float16.
    """
    halves = {name: t.detach().cpu() for name, t in state.items()}
    halves = {name: t.half() if t.is_floating_point() else t for name, t in halves.items()}
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            raise ModelError(
                f"the weights of {name} are not finite in float16, so the training diverged; "
                "lower training.learning_rate and train again"
            )
    return {name: tensor.contiguous().clone() for name, tensor in halves.items()}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors, floats as float32.

    Raises
    ------
    ModelError
        If the file is missing, damaged, a pickle, or holds numbers that are not finite.
    """
    check_weight_file(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: the weights are damaged ({error}); copy the model folder again") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{path}: the weights of {name} are not finite; the model is useless, train it again")
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def check_weight_file(path: Path) -> None:
    """Refuse what is missing and what may run code; raises `ModelError`."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        raise ModelError(f"{path}: the weights are missing or not readable; copy the model folder again") from None
    # A sound file begins with the length of its JSON header, any eight bytes, so the brace is looked at first.
    if start[8:] != b"{" and start.startswith(PICKLE_MARKS):
        raise ModelError(
            f"{path}: this is a pickle, which may run any code when it is loaded; medseg loads safetensors only"
        )


def check_fit(path: Path, record: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of the network that the file `record` describes; raises `ModelError`."""
    problems = []
    for kind, names in (("missing", expected.keys() - found.keys()), ("unknown", found.keys() - expected.keys())):
        if names:
            problems.append(f"{len(names)} {kind}, such as {min(names)}")
    reshaped = sorted(n for n in expected.keys() & found.keys() if expected[n].shape != found[n].shape)
    if reshaped:
        name = reshaped[0]
        shapes = f"{tuple(found[name].shape)} in place of {tuple(expected[name].shape)}"
        problems.append(f"{len(reshaped)} of another shape, such as {name}: {shapes}")
    if problems:
        raise ModelError(
            f"{path}: the weights don't fit the plan in {record} ({'; '.join(problems)}); "
            "both files must be of the same training"
        )
