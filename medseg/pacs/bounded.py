"""pynetdicom's server with bounds on what a peer may make it hold: bytes, time and connections.

pynetdicom itself believes the length of a PDU (up to 4 GiB), waits for the rest of one for ever, gathers a message of
any size, reads requests ahead of its answers, and lets a slow TLS handshake hold up all other callers.
"""

from __future__ import annotations

import logging
import socket
import ssl
from functools import partial
from threading import BoundedSemaphore
from time import monotonic
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from medseg.pacs.settings import Limits

REQUEST_BYTES = 1 << 20
"""Longest request for an association: 128 presentation contexts with all their syntaxes take less than 200 KB."""

COMMAND_BYTES = 1 << 16
"""Longest command set; those of C-STORE have some hundred bytes."""

WAITING_MESSAGES = 2
"""Requests that may wait for their answer; a peer that keeps to one at a time, as agreed, has one at most."""

SPARE_CONNECTIONS = 8
"""Connections beside the associations, so that one too many is refused in words, not cut off."""

logger = logging.getLogger(__name__)


class BoundedSocket(AssociationSocket):
    """A connection that ends at a deadline, and takes no longer PDU than was agreed."""

    def __init__(self, association: Association, client: socket.socket, limits: Limits) -> None:
        super().__init__(association, client_socket=client)
        self._limits = limits
        self._deadline = monotonic() + limits.association_seconds
        self._most = max(REQUEST_BYTES, limits.pdu_bytes + 6)

    def recv(self, nr_bytes: int) -> bytearray:
        """Return the bytes that come, at most so many.

        Raises
        ------
        ConnectionError, TimeoutError
            If more are announced than a PDU may have, or they take too long.
        """
        received = bytearray()
        if nr_bytes > self._most:
            raise ConnectionError("a PDU is longer than was agreed")
        idle = monotonic() + self._limits.idle_seconds
        while len(received) < nr_bytes and self.socket is not None:
            left = min(idle, self._deadline) - monotonic()
            if left <= 0:
                raise TimeoutError("a PDU takes too long")
            self.socket.settimeout(left)
            piece = self.socket.recv(min(nr_bytes - len(received), 1 << 16))
            if not piece:
                break
            received += piece
        if self.socket is not None:
            self.socket.settimeout(self._limits.idle_seconds)  # for what is sent
        return received

    def _shutdown_socket(self) -> None:
        """Close it even where the peer was faster, which pynetdicom leaves open."""
        client = self.socket
        super()._shutdown_socket()
        if client is not None:
            client.close()


class BoundedMessages(DIMSEServiceProvider):
    """Messages up to a size, one after the other.

    Of an instance that is too large one byte more than allowed is kept, which tells so; the rest is read and dropped,
    because a sender hears no answer before it has sent everything.
    """

    def __init__(self, association: Association, limits: Limits) -> None:
        super().__init__(association)
        self._limits = limits
        self._command = self._data = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a part of a message; whatever is wrong with it ends the association, not the thread."""
        try:
            parts: list[Any] = [
                [context, self._bounded(value)] for context, value in primitive.presentation_data_value_list
            ]
            primitive.presentation_data_value_list = parts
            super().receive_primitive(primitive)
            if self.message is None:
                self._command = self._data = 0
            if self.msg_queue.qsize() > WAITING_MESSAGES:
                raise ConnectionError("requests come faster than they are answered")
        except Exception as error:
            logger.debug("message", exc_info=error)
            self.dul.event_queue.put("Evt19")  # invalid PDU: the association is aborted

    def _bounded(self, value: bytes) -> bytes:
        control, size = value[0], len(value) - 1
        if control & 1:
            self._command += size
            if self._command > COMMAND_BYTES:
                raise ConnectionError("a command set is too long")
            return value
        room = max(0, self._limits.instance_bytes + 1 - self._data)
        self._data += min(size, room)
        return value[: 1 + room]


class BoundedHandler(RequestHandler):
    """One connection: TLS, if it is wanted, and the bounds."""

    def __init__(self, *words: Any, limits: Limits, tls: ssl.SSLContext | None) -> None:
        self._limits, self._tls = limits, tls
        super().__init__(*words)

    def setup(self) -> None:
        """Shake hands in this connection's thread, so that nobody waits for a slow one."""
        self.request.settimeout(self._limits.idle_seconds)
        if self._tls:
            self.request = self._tls.wrap_socket(self.request, server_side=True)

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dul.event_queue.get()  # the plain socket tells that it is connected, as the bounded one will
        association.dul.socket = BoundedSocket(association, self.request, self._limits)
        association.dimse = BoundedMessages(association, self._limits)
        return association


class BoundedServer(ThreadedAssociationServer):
    """A server with a bound on connections, whether they ever say a word or not."""

    daemon_threads = True

    def __init__(self, *words: Any, limits: Limits, tls: ssl.SSLContext | None, **more: Any) -> None:
        self._most = limits.associations + SPARE_CONNECTIONS
        self._connecting = BoundedSemaphore(self._most)
        more["request_handler"] = partial(BoundedHandler, limits=limits, tls=tls)
        super().__init__(*words, **more)
        self.ae._servers.append(self)  # where its own `shutdown` expects it

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection."""
        return len(self.active_associations) < self._most and self._connecting.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a connection; one that gets none keeps no place."""
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._connecting.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Begin an association, which goes on in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connecting.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a connection that failed before it was an association, such as one without TLS."""
        logger.debug("connection", exc_info=True)
