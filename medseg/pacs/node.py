"""The DICOM node: takes C-ECHO and C-STORE from the nodes that may send, and puts instances into the queue."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from time import monotonic
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from medseg.errors import ConfigError
from medseg.io.dicom_headers import MULTI_FRAME, SINGLE_FRAME, can_decode
from medseg.pacs.bounded import BoundedServer
from medseg.pacs.journal import Journal
from medseg.pacs.refusal import RefusedError, Status
from medseg.pacs.settings import ListenConfig
from medseg.pacs.spool import Spool
from medseg.pacs.tls import server_context
from medseg.provenance import medseg_version

UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
COMPRESSED = (
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
)  # fmt: skip
"""JPEG 2000, JPEG-LS, RLE and JPEG, lossless ones first. Deflated is left out: nothing bounds its size."""

LINES_A_MINUTE = 60
"""Refusals that are told; whoever is refused more often does not fill the disk with them."""

logger = logging.getLogger(__name__)


def storage_contexts() -> dict[str, list[str]]:
    """Return the SOP classes that are taken, with the transfer syntaxes that can be decoded here."""
    syntaxes = [*UNCOMPRESSED, *(syntax for syntax in COMPRESSED if can_decode(syntax))]
    return dict.fromkeys((*SINGLE_FRAME, *MULTI_FRAME), syntaxes)


class Node:
    """What answers callers."""

    def __init__(self, config: ListenConfig, spool: Spool, journal: Journal) -> None:
        self._config, self._spool, self._journal = config, spool, journal
        self._told: deque[float] = deque()
        self._turn = Lock()

    def entity(self) -> AE:
        """Return the application entity with its rules."""
        limits, entity = self._config.limits, AE(self._config.ae_title)
        entity.implementation_version_name = f"MEDSEG_{medseg_version()}"[:16]
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._config.allow)
        entity.maximum_associations = limits.associations
        entity.maximum_pdu_size = limits.pdu_bytes
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = limits.idle_seconds
        entity.add_supported_context(Verification)
        for sop_class, syntaxes in storage_contexts().items():
            entity.add_supported_context(sop_class, syntaxes)
        return entity

    def on_store(self, event: evt.Event) -> int:
        """Put an instance into the queue; 0x0000 is answered only when it is safely on disk."""
        try:
            request: Any = event.request  # a C_STORE; anything may be missing in it
            head = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
            pieces = [head, request.DataSet.getbuffer()]
            self._spool.store(pieces, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        except RefusedError as refused:
            return self._refuse(refused.status, str(refused))
        except Exception as error:
            logger.debug("instance", exc_info=error)
            return self._refuse(Status.NOT_UNDERSTOOD, f"an instance can't be understood ({type(error).__name__})")
        return int(Status.SUCCESS)

    def _refuse(self, status: Status, reason: str) -> int:
        self._tell("refused", f"refused: {reason}", status=f"{status:04X}", reason=reason)
        return int(status)

    def on_rejected(self, event: evt.Event) -> None:
        """Tell of a caller that is not allowed, or one too many."""
        requestor: Any = event.assoc.requestor
        title, host, called = requestor.ae_title.strip(), requestor.address, requestor.primitive.called_ae_title
        sentence = f"refused an association of {title!r} at {host}, which called {called!r}"
        self._tell("rejected", sentence, title=title, host=host)

    def _tell(self, event: str, sentence: str, **details: object) -> None:
        with self._turn:
            now = monotonic()
            while self._told and now - self._told[0] > 60:
                self._told.popleft()
            if len(self._told) >= LINES_A_MINUTE:
                return
            self._told.append(now)
        self._journal.write(event, sentence, **details)


@contextmanager
def listening(config: ListenConfig, spool: Spool, journal: Journal) -> Iterator[int]:
    """Answer callers as long as the block lasts; gives the port.

    Raises
    ------
    ConfigError
        If the port can't be listened on, or TLS can't use its files.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # its records of every PDU cost time and quote identifiers
    node = Node(config, spool, journal)
    entity = node.entity()
    try:
        server = entity.make_server(
            (config.host, config.port),
            server_class=BoundedServer,
            evt_handlers=[(evt.EVT_C_STORE, node.on_store), (evt.EVT_REJECTED, node.on_rejected)],
            limits=config.limits,
            tls=server_context(config.tls) if config.tls else None,
        )
    except OSError as error:
        raise ConfigError(
            f"can't listen on {config.host}, port {config.port} ({error.strerror}); choose another --host or --port"
        ) from None
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        for association in entity.active_associations:
            if association.is_established:
                association.abort()
            elif association.dul.socket:  # there is nothing to abort yet: pynetdicom's thread would die of it
                association.dul.socket.close()
        thread.join()
