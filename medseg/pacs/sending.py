"""Results on their way back: by C-STORE, or by STOW-RS (PS3.18 10.5).

Sending twice does no harm: the same result has the same UIDs.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import secrets
import ssl
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from pynetdicom import AE
from pynetdicom.association import Association

from medseg.errors import ConfigError, MedsegError
from medseg.io.dicom_headers import read_headers
from medseg.pacs.settings import ListenConfig, parse_peer
from medseg.pacs.tls import client_context

AUTHORIZATION = "MEDSEG_STOW_AUTHORIZATION"
"""Environment variable that holds the Authorization header: a command line is seen by all users of a machine."""

ACCEPTED = (0x0000, 0xB000, 0xB006, 0xB007)
"""Status of a C-STORE that stored the object, perhaps with a warning (PS3.4 table B.2-1)."""

SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
ANSWER_BYTES = 1 << 20

logger = logging.getLogger(__name__)


class SendError(MedsegError):
    """A destination did not take a result; another try may help."""


class Destination(Protocol):
    """Where results go."""

    name: str

    def send(self, files: Sequence[Path]) -> None:
        """Send DICOM files of one study; all of them have arrived when it returns.

        Raises
        ------
        SendError
            If one has not.
        """
        ...


class StoreUser:
    """A DICOM node that takes C-STORE.

    Parameters
    ----------
    tls : None: without TLS.
    """

    def __init__(self, config: ListenConfig, to: str, tls: ssl.SSLContext | None) -> None:
        self.name, self._peer, self._tls = to, parse_peer(to), tls
        self._title, self._seconds = config.ae_title, config.limits.idle_seconds

    def send(self, files: Sequence[Path]) -> None:
        """Send files over one association."""
        entity = AE(self._title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = self._seconds
        for sop_class in dict.fromkeys(read_headers(file)[0].sop_class for file in files):
            entity.add_requested_context(sop_class, SYNTAXES)
        tls = (self._tls, self._peer.host) if self._tls else None
        association = entity.associate(self._peer.host, self._peer.port, ae_title=self._peer.ae_title, tls_args=tls)
        if not association.is_established:
            refused = "refused the association" if association.is_rejected else "can't be reached"
            raise SendError(f"{self.name} {refused}; check its address, its AE titles and that it knows this node")
        try:
            for file in files:
                self._store(association, file)
        finally:
            association.release()

    def _store(self, association: Association, file: Path) -> None:
        try:
            status = association.send_c_store(file)
        except (ValueError, RuntimeError) as error:  # no context was accepted, or the association is gone
            logger.debug("sending", exc_info=error)
            raise SendError(f"{self.name} does not take {file.name}: it knows no such object, or went away") from None
        if "Status" not in status:
            raise SendError(f"{self.name} gave no answer to {file.name} within {self._seconds:g} s")
        if status.Status not in ACCEPTED:
            raise SendError(f"{self.name} did not take {file.name} (status {status.Status:04X})")


class WebStore:
    """A DICOMweb service that takes STOW-RS."""

    def __init__(self, config: ListenConfig, url: str) -> None:
        self.name = url
        self._parts, self._seconds = urlsplit(url), config.limits.idle_seconds
        self._context = None
        if self._parts.scheme == "https":
            self._context = client_context(config.tls) if config.tls else ssl.create_default_context()

    def send(self, files: Sequence[Path]) -> None:
        """Post files in one request."""
        boundary = f"medseg-{secrets.token_hex(16)}"
        start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(start + file.read_bytes() + b"\r\n" for file in files) + f"--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        if authorization := os.environ.get(AUTHORIZATION):
            headers["Authorization"] = authorization
        try:
            with closing(self._connection()) as connection:
                connection.request("POST", self._parts._replace(scheme="", netloc="").geturl(), body, headers)
                answer = connection.getresponse()
                status, text = answer.status, answer.read(ANSWER_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            raise SendError(f"{self.name} can't be reached ({cause}); check its address and that it runs") from None
        if status not in (200, 202) or _failed(text):
            raise SendError(f"{self.name} did not take the results (HTTP status {status})")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._context:
            return http.client.HTTPSConnection(host, port, timeout=self._seconds, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=self._seconds)


def _failed(answer: bytes) -> bool:
    """Whether an answer, in DICOM JSON, names objects that failed (Failed SOP Sequence)."""
    try:
        return bool(json.loads(answer or b"{}").get("00081198", {}).get("Value"))
    except (ValueError, AttributeError):  # the status is all there is
        return False


def open_destinations(config: ListenConfig) -> tuple[Destination, ...]:
    """Return where a configuration wants results.

    Raises
    ------
    ConfigError
        If TLS can't use its files.
    """
    found: list[Destination] = []
    if config.send_to:
        tls = client_context(config.tls) if config.send_tls and config.tls else None
        found.append(StoreUser(config, config.send_to, tls))
    if config.stow:
        found.append(WebStore(config, config.stow))
    if not found:
        raise ConfigError("results have nowhere to go; give --send-to or --stow")
    return tuple(found)
