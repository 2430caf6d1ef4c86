"""What `medseg listen` is told: who may send, how much, what is segmented, where results go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from medseg.config import SegmentConfig, Stage, describe_problems
from medseg.errors import ConfigError

AE_TITLE = re.compile(r"(?! )[ -\[\]-~]{1,16}(?<! )")
"""PS3.5 6.2, AE: up to 16 characters of ASCII without backslash; spaces around it count for nothing."""

DESTINATION = re.compile(r"(?P<ae>[^@]+)@(?P<host>[^@]+):(?P<port>\d{1,5})")
MOST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM node that results are sent to."""

    ae_title: str
    host: str
    port: int


def _checked_title(title: str) -> str:
    if not AE_TITLE.fullmatch(title):
        raise ValueError(f"{title!r} is no AE title: 1 to 16 ASCII characters, no backslash, no space around")
    return title


def parse_peer(text: str) -> Peer:
    """Return the node that is written as AE@host:port.

    Examples
    --------
    >>> parse_peer("ORTHANC@127.0.0.1:4242")
    Peer(ae_title='ORTHANC', host='127.0.0.1', port=4242)
    """
    found = DESTINATION.fullmatch(text)
    if not found or not 0 < int(found["port"]) <= MOST_PORT:
        raise ValueError(f"{text!r} is no DICOM node; write it as AE@host:port, such as ORTHANC@127.0.0.1:4242")
    return Peer(_checked_title(found["ae"]), found["host"].strip("[]"), int(found["port"]))


def _checked_peer(text: str) -> str:
    parse_peer(text)
    return text


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"{url!r} is no address of a DICOMweb service, such as http://127.0.0.1:8042/dicom-web/studies"
        )
    if parts.username or parts.password:
        raise ValueError("a password does not belong into an address; put the header into MEDSEG_STOW_AUTHORIZATION")
    return url


Title = Annotated[str, AfterValidator(_checked_title)]


class TlsFiles(Stage):
    """PEM files for TLS; both sides show certificates."""

    certificate: Path = Field(description="Certificate of this node, with its chain")
    key: Path = Field(description="Its private key")
    authority: Path = Field(description="Certificates of the authorities that the other side's must come from")


class Limits(Stage):
    """What others may take of this machine."""

    associations: int = Field(8, ge=1, description="Associations at once; a further one is refused for now")
    association_seconds: float = Field(3600, gt=0, description="Longest association")
    idle_seconds: float = Field(60, gt=0, description="Longest silence within one")
    pdu_bytes: int = Field(1 << 17, ge=4096, le=1 << 24, description="Largest PDU that is offered to senders")
    instance_mb: float = Field(512, gt=0, description="Largest instance, MB; it is held in memory until it is on disk")
    quota_gb: float = Field(50, gt=0, description="Most that the queue's folder may hold, GB")
    free_gb: float = Field(1, ge=0, description="What is left free on its disk, GB")

    @property
    def instance_bytes(self) -> int:
        """Largest instance in bytes."""
        return int(self.instance_mb * 1e6)


class ListenConfig(Stage):
    """A DICOM node that segments what it is sent."""

    queue: Path = Field(description="Folder of the queue")
    model: Path = Field(description="Model folder")
    ae_title: Title = Field("MEDSEG", description="AE title of this node; associations that call another are refused")
    allow: tuple[Title, ...] = Field(min_length=1, description="AE titles that may send")
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(11112, ge=0, le=MOST_PORT, description="Port to listen on; 0: any that is free")
    send_to: Annotated[str, AfterValidator(_checked_peer)] | None = Field(
        None, description="Node that results are sent to by C-STORE, as AE@host:port"
    )
    stow: Annotated[str, AfterValidator(_checked_url)] | None = Field(
        None, description="Address that results are posted to by STOW-RS"
    )
    send_tls: bool = Field(False, description="Send by C-STORE over TLS, with the same files")
    tls: TlsFiles | None = Field(None, description="Files for TLS; default: no TLS")
    quiet_seconds: float = Field(60, gt=0, description="A study is complete when nothing came for so long")
    send_tries: int = Field(12, ge=1, description="How often a study's results are sent before it counts as failed")
    retry_seconds: float = Field(30, gt=0, description="Pause before the second try; it doubles, up to an hour")
    keep_hours: float = Field(1, ge=0, description="How long a study stays in the queue after its results were sent")
    keep_failed_hours: float = Field(168, ge=0, description="How long a study stays in the queue after it failed")
    retry_failed: bool = Field(False, description="Try failed studies again")
    limits: Limits = Field(default_factory=Limits, description="What others may take of this machine")
    segment: SegmentConfig = Field(default_factory=SegmentConfig, description="Device, series rules, formats")

    @model_validator(mode="after")
    def _is_whole(self) -> ListenConfig:
        if not (self.send_to or self.stow):
            raise ValueError("results have nowhere to go; give send_to, stow or both")
        if self.send_tls and self.tls is None:
            raise ValueError("send_tls needs the files for TLS: certificate, key and authority")
        return self


def make_listen_config(**fields: Any) -> ListenConfig:
    """Return a node's configuration.

    Raises
    ------
    ConfigError
        If a field is unknown or wrong.
    """
    try:
        return ListenConfig(**fields)
    except ValidationError as error:
        raise ConfigError(describe_problems(error)) from None
