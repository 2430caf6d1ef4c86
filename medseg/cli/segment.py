"""``medseg segment``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import Device, Key, Policies, Pseudonymize, Scans, SeriesRule, Workdir, split
from medseg.cli.report import show_review
from medseg.cli.screen import case_progress, console, show_no_scan, show_unread
from medseg.errors import ReasonCode

if TYPE_CHECKING:
    from medseg.batch.summary import RunSummary

PICTURE = "medseg.quality.viewer:draw_case"
"""Draws the pictures; imported where they are drawn, so that workers start at once."""

how = partial(typer.Option, rich_help_panel="How the model is applied")
written = partial(typer.Option, rich_help_panel="What is written")
scale = partial(typer.Option, rich_help_panel="Many cases, several machines")
"""Options by their groups in the help."""

SPEED_HELP = (
    "fast, balanced (as the model was validated) or accurate: how much windows overlap, whether they are mirrored, and "
    "the arithmetic. A CT of 512x512x256 at 1.5 mm has 64, 125 or 216 windows of 96³; accurate looks at each up to 8 "
    "times, in float32. On 28 hippocampi, of one window each: 0.21, 0.21 and 0.65 s of processor time, Dice 0.893 for "
    "all, 99.997 % of the voxels equal; on 16 left atria 1.17, 1.20 and 2.39 s, 0.912 for all, 99.98 %. --overlap and "
    "--flips count before it."
)


def segment(
    scans: Scans,
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder, as medseg train writes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; not inside SCANS.")],
    device: Device = "auto",
    backend: Annotated[
        str,
        how(
            help="What computes the network, of a folder that medseg export wrote: torch, onnx or openvino; auto: the "
            "first that is there."
        ),
    ] = "auto",
    speed: Annotated[str, how(help=SPEED_HELP)] = "balanced",
    flips: Annotated[
        bool | None, how("--flips/--no-flips", help="Average over mirrored scans; default: the model's way.")
    ] = None,
    overlap: Annotated[
        float | None,
        how(min=0, max=0.95, help="Share of a window that the next one covers again; default: the model's."),
    ] = None,
    pictures: Annotated[
        bool, written(help="Draw overlay.png for each case, and with NiiVue (medseg\\[viewer]) view.html.")
    ] = True,
    report: Annotated[bool, written(help="Write report.html and worklist.csv at the end.")] = True,
    formats: Annotated[
        str,
        written(
            help="Formats, joined by commas: nifti (always written), seg-nrrd for 3D Slicer; of DICOM series also "
            "dicom-seg, rtstruct (contours), dicom-sr (measurements)."
        ),
    ] = "nifti",
    per_class: Annotated[bool, written("--per-class", help="Also write one binary mask a label.")] = False,
    lesions: Annotated[
        str | None,
        written(help="Labels, joined by commas, whose parts are measured singly; default: as the model marks."),
    ] = None,
    workers: Annotated[
        int | None, scale(min=0, help="Worker processes; 0: all in this process; default: one a GPU, one on a CPU.")
    ] = None,
    case_timeout: Annotated[
        float, scale(min=0, metavar="SECONDS", help="End a case after so much work on it, as hanging; 0: never.")
    ] = 6 * 3600,
    memory_limit: Annotated[
        float | None, scale(metavar="GB", help="Memory that a worker process may take (Linux).")
    ] = None,
    engine: Annotated[
        str, scale(help="processes: workers on this machine; ray: actors on a Ray cluster (medseg\\[ray]).")
    ] = "processes",
    ray_address: Annotated[
        str | None, scale(help="Address of the Ray cluster; default: RAY_ADDRESS, else one on this machine.")
    ] = None,
    shard: Annotated[
        str | None,
        scale(
            metavar="I/N", help="Do the Ith of N parts of the cases; other commands do the others. Then: medseg unite."
        ),
    ] = None,
    redo: Annotated[bool, scale(help="Segment again what is already done.")] = False,
    policy: Policies = None,
    series_rule: SeriesRule = None,
    pseudonymize: Pseudonymize = False,
    key: Key = None,
    workdir: Workdir = None,
) -> None:
    """Segment scans with a trained model; every mask lies exactly on its scan.

    Writes OUTPUT/cases/<case>/mask.nii.gz, overlay.png and case.json, OUTPUT/cases.csv with the volume of each
    structure, and OUTPUT/report.html and worklist.csv, which say what to look at first, and why. The same command
    again does only what is not done yet. A scan that can't be used, crashes or hangs is listed with its reason, and
    the others are done. Exit codes: 0 all done, 1 some not, 2 wrong command or model, 3 none could be done.

    Example: `medseg segment scans/ --model runs/liver/model --output results/liver`
    """
    from medseg.batch.segment_folder import segment_folder
    from medseg.config import make_segment_config, parse_policies

    config = make_segment_config(
        device=device,
        backend=backend,
        speed=speed,
        overlap=overlap,
        flips=flips,
        ingest=parse_policies(policy or ()),
        series_rule=series_rule,
        key=key,
        workdir=workdir,
        pseudonymize=pseudonymize,
        redo=redo,
        workers=workers,
        case_timeout=case_timeout,
        engine=engine,
        ray_address=ray_address,
        shard=shard,
        memory_limit_gb=memory_limit,
        formats=split(formats),
        per_class=per_class,
        lesions=None if lesions is None else split(lesions),
    )
    with case_progress() as watcher:
        picture = PICTURE if pictures else None
        summary = segment_folder(scans, model, output, config, picture=picture, watcher=watcher)
    show_summary(summary)
    if report and summary.results and not config.shard:
        from medseg.quality.report import write_report

        show_review(write_report(output))
    raise typer.Exit(summary.exit_code)


def show_summary(summary: RunSummary) -> None:
    """Print how many cases ended how, and where the results are."""
    screen = console()
    show_unread(summary.unread)
    if count := summary.left_out.get(str(ReasonCode.NOT_DICOM)):
        message = (
            f"left out: {count} files, NOT_DICOM: they are named like it and have no DICOM header; export them again"
        )
        screen.print(message, style="yellow")
    if not summary.results and summary.elsewhere:
        screen.print(f"all {summary.elsewhere} cases are other shards'")
        return
    if not summary.results:
        show_no_scan(summary.left_out, summary.tables)
        return
    before = sum(result.was_done for result in summary.results)
    ended_well = sum(result.is_done for result in summary.results)
    done = f"{ended_well} of {len(summary.results)} cases done in {summary.seconds:.1f} s"
    screen.print(done + (f", {before} of them by an earlier run" if before else ""))
    for status in ("rejected", "failed", "crashed", "timeout"):
        if count := summary.count(status):
            screen.print(f"{count} {status}: see {summary.tables / 'cases.csv'}", style="yellow")
    if summary.left_behind:
        screen.print(f"{summary.left_behind} case folders are of earlier runs, and other scans", style="yellow")
    screen.print(f"Masks and pictures: {summary.output / 'cases'}\nTable of volumes:   {summary.tables / 'cases.csv'}")
