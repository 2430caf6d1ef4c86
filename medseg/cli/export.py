"""``medseg export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import split
from medseg.cli.screen import console

if TYPE_CHECKING:
    from medseg.networks.exported import Export


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, as medseg train writes it.")],
    to: Annotated[
        str,
        typer.Option(
            help="Runtimes, joined by commas: onnx (ONNX Runtime), openvino. The first is used unless told otherwise; "
            "with torch among them its weights are kept, too."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the exported model.")],
    int8: Annotated[bool, typer.Option("--int8", help="Convolutions with 8-bit numbers; needs --calibrate.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="SCANS",
            help="Scans such as the model segments: they show the ranges of 8-bit numbers, and the export is compared "
            "with its source on them. Without them it is compared on noise.",
        ),
    ] = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="OpenVINO: float32 even where the processor is faster with bf16.")
    ] = False,
    least: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the voxels that must get the label that the source gives them; default: 0.9999 in float32, "
            "0.995 in bf16, 0.99 in int8. Below 0.8 also the Dice of each structure with the source's.",
        ),
    ] = None,
) -> None:
    r"""Export a model for ONNX Runtime or OpenVINO, which segment faster on CPUs, in 8 bits if wished.

    OUTPUT is a model folder like any other for `medseg segment --model OUTPUT`; it is written only if it decides as
    its source. Needs `pip install 'medseg\[onnx]'` or `'medseg\[openvino]'`. Training, reviewing and pseudo-labels go
    on with the model that it was made from.

    Example: `medseg export runs/liver/model --to openvino --int8 --calibrate scans/ --output models/liver_int8`
    """
    from medseg.export.export import ExportOptions, export_model

    options = ExportOptions(split(to), int8, float32, calibrate, least)
    for done in export_model(model, output, options):
        console().print(_told(done))
    console().print(f"Model: {output}\nNext: medseg segment SCANS --model {output} --output RESULTS")


def _told(export: Export) -> str:
    agreement = export.agreement
    windows = f"{agreement.windows} windows of {'scans' if agreement.from_scans else 'noise'}"
    return (
        f"{export.runtime}, {export.precision}: in {windows} {agreement.equal:.4%} of the voxels keep their label; "
        f"probabilities differ by {agreement.largest_difference:.4f} at most"
    )
