"""``medseg listen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import Device, Key, Policies, SeriesRule
from medseg.cli.screen import console


def listen(
    queue: Annotated[Path, typer.Argument(metavar="QUEUE", help="Folder of the queue; made, for its owner only.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder, as medseg train writes it.")],
    allow: Annotated[list[str], typer.Option(metavar="AE", help="AE title that may send; may be repeated.")],
    send_to: Annotated[
        str | None, typer.Option(metavar="AE@HOST:PORT", help="Node that results are sent to by C-STORE.")
    ] = None,
    stow: Annotated[
        str | None, typer.Option(metavar="URL", help="Address that results are posted to, STOW-RS.")
    ] = None,
    ae_title: Annotated[str, typer.Option(help="AE title of this node.")] = "MEDSEG",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 11112,
    quiet_seconds: Annotated[
        float, typer.Option(help="A study is complete when nothing came for so many seconds.")
    ] = 60,
    series_rule: SeriesRule = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Send measurements (DICOM SR), too.")] = True,
    device: Device = "auto",
    policy: Policies = None,
    key: Key = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate of this node (PEM): turns TLS on.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_authority: Annotated[
        Path | None, typer.Option(help="Authorities that the others' certificates must come from (PEM).")
    ] = None,
    send_tls: Annotated[bool, typer.Option("--send-tls", help="Send by C-STORE over TLS as well.")] = False,
    associations: Annotated[int, typer.Option(help="Associations at once.")] = 8,
    max_instance_mb: Annotated[float, typer.Option(help="Largest instance; it is held in memory meanwhile.")] = 512,
    quota_gb: Annotated[float, typer.Option(help="Most that the queue may hold.")] = 50,
    send_tries: Annotated[int, typer.Option(help="How often results are sent before the study has failed.")] = 12,
    keep_hours: Annotated[float, typer.Option(help="How long a study stays in the queue after it was sent.")] = 1,
    keep_failed_hours: Annotated[float, typer.Option(help="How long after it failed.")] = 168,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the failed studies of the queue again.")
    ] = False,
) -> None:
    """Segment what a PACS sends, and send the masks back: a DICOM node.

    Receives studies by C-STORE, waits until nothing more comes, segments what the series rules choose, and sends
    DICOM SEG and SR to another node, or posts them to a DICOMweb service. What was acknowledged is on disk: after a
    crash or a restart the same command goes on. Stop it with Ctrl-C or SIGTERM. docs/pacs.md shows it with Orthanc.

    Example: `medseg listen queue/ --model runs/liver/model --allow ORTHANC --send-to ORTHANC@127.0.0.1:4242`
    """
    from medseg.cli.stopping import until_stopped
    from medseg.config import make_segment_config, parse_policies
    from medseg.errors import ConfigError

    try:
        from medseg.pacs.listener import run_listener
    except ModuleNotFoundError as error:
        if error.name != "pynetdicom":
            raise
        raise ConfigError("medseg listen needs pynetdicom; run pip install 'medseg[pacs]'") from None
    from medseg.pacs.settings import make_listen_config

    files = {"certificate": tls_certificate, "key": tls_key, "authority": tls_authority}
    config = make_listen_config(
        queue=queue,
        model=model,
        ae_title=ae_title,
        allow=tuple(allow),
        host=host,
        port=port,
        send_to=send_to,
        stow=stow,
        send_tls=send_tls,
        tls=files if any(files.values()) else None,
        quiet_seconds=quiet_seconds,
        send_tries=send_tries,
        keep_hours=keep_hours,
        keep_failed_hours=keep_failed_hours,
        retry_failed=retry_failed,
        limits={"associations": associations, "instance_mb": max_instance_mb, "quota_gb": quota_gb},
        segment=make_segment_config(
            device=device,
            ingest=parse_policies(policy or ()),
            series_rule=series_rule,
            key=key,
            formats=("nifti", "dicom-seg", *(["dicom-sr"] if report else [])),
        ),
    )
    screen = console()

    def ready(number: int) -> None:
        screen.print(
            f"{ae_title} listens on {host}, port {number}; results go to {' and '.join(filter(None, (send_to, stow)))}"
        )

    with until_stopped() as stop:
        run_listener(config, screen.print, stop, ready)
    screen.print("stopped; the same command goes on from what is in the queue")
