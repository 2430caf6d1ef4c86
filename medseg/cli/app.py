"""The program: its verbs, and how it ends when something is wrong.

Exit codes: 0 all done; 1 some cases failed, or time was up; 2 the command, configuration, data or model is wrong;
3 no case could be done; 130 stopped by the user.
"""

from __future__ import annotations

import functools
import io
import logging
import re
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from medseg.cli import (
    convert,
    demo,
    distill,
    evaluate,
    export,
    index,
    listen,
    next,
    plan,
    pretrain,
    prune,
    pseudo_label,
    report,
    review,
    segment,
    serve,
    train,
    unite,
)
from medseg.cli.screen import show_error
from medseg.errors import MedsegError

WRONG_INPUT = 2
STOPPED = 130

logger = logging.getLogger("medseg")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from medseg.provenance import medseg_version

        typer.echo(f"medseg {medseg_version()}")
        raise typer.Exit


@app.callback(epilog="New here? [cyan]medseg demo[/] shows the whole way in a few minutes.")
def medseg(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; write it before the verb.")] = False,
    version: Annotated[  # noqa: ARG001 (its callback does it)
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Train a segmentation network on your own CT and MR scans, and segment folders of DICOM and NIfTI with it."""
    if debug:
        logging.basicConfig()
        logger.setLevel(logging.DEBUG)


def ending_well(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb end with one sentence where the user can do something about it.

    With ``--debug`` the exception goes on, so that its traceback is seen.
    """

    @functools.wraps(verb)
    def run(*arguments: object, **options: object) -> None:
        try:
            verb(*arguments, **options)
        except MedsegError as error:
            if logger.isEnabledFor(logging.DEBUG):
                raise
            show_error(str(error))
            raise typer.Exit(WRONG_INPUT) from None
        except OSError as error:  # beside cases: a path, or a lack of processes or open files
            if logger.isEnabledFor(logging.DEBUG):
                raise
            show_error(f"the system refuses {error.filename or 'what is needed'}: {error.strerror or error}")
            raise typer.Exit(WRONG_INPUT) from None
        except KeyboardInterrupt:
            show_error("stopped; the same command goes on from what is done")
            raise typer.Exit(STOPPED) from None

    return run


def page(docstring: str) -> str:
    r"""Return a docstring as a help page: paragraphs flow, and commands stand out.

    Examples
    --------
    >>> page("Do it.\n\n    Two lines\n    flow: `medseg demo`")
    'Do it.\n\nTwo lines flow: [cyan]medseg demo[/]'
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))
    return re.sub("`([^`]+)`", r"[cyan]\1[/]", "\n\n".join(paragraphs))


VERBS = (
    index.index, convert.convert, plan.plan, plan.prepare, pretrain.pretrain, train.train, distill.distill, prune.prune,
    export.export, pseudo_label.pseudo_label, next.next, segment.segment, listen.listen, unite.unite, report.report,
    serve.serve, evaluate.evaluate, demo.demo,
)  # fmt: skip

for verb in VERBS:
    app.command(help=page(verb.__doc__ or ""))(ending_well(verb))

review_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Review masks in 3D Slicer, and take the corrections back."
)
for name, review_verb in review.VERBS.items():
    review_app.command(name, help=page(review_verb.__doc__ or ""))(ending_well(review_verb))
app.add_typer(review_app, name="review")


def main() -> None:
    """Run the command line."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it reports precision and seeds of its own
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of an encoding without the letters of a file's name
    for name in ("SIGTERM", "SIGHUP"):  # a system that asks, or a lost connection, ends it as a user does: in order
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    app(prog_name="medseg")
