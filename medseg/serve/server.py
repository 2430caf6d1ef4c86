"""Start the server and let it run."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.batch.places import check_places, check_writable
from medseg.errors import ConfigError
from medseg.io.files import lock_file
from medseg.io.tables import OWNER_ONLY
from medseg.serve.settings import LOCK_FILE, LOG_FILE, TOKEN_FILE, Address, ServeSettings

if TYPE_CHECKING:
    import uvicorn

    from medseg.serve.access import App

LOG_BYTES = 5_000_000
KEEP_ALIVE_SECONDS = 10
MOST_HEADER_BYTES = 1 << 16

logger = logging.getLogger("medseg.serve")


def serve(settings: ServeSettings, address: Address, tell: Callable[[str], None]) -> None:
    """Serve until the process is interrupted.

    Parameters
    ----------
    tell : shown to the person who starts it: the address with the token.

    Raises
    ------
    MedsegError
        If studies, model, labels, output folder or address can't be used, or the extra `serve` is not installed.
    """
    try:
        import uvicorn

        from medseg.serve.app import make_app
    except ImportError:
        raise ConfigError("the server needs more packages: pip install 'medseg[serve]'") from None
    from medseg.serve.service import open_service
    from medseg.serve.tokens import Tokens

    check_places(settings.studies, settings.output)
    check_writable(settings.output)
    with (
        listening(address) as listener,
        claimed(settings.output),
        logging_to(settings.output / LOG_FILE),
        open_service(settings) as service,
    ):
        tokens = Tokens.of(settings.output / TOKEN_FILE) if address.needs_token else None
        config = _server_config(make_app(service, tokens), address)
        for line in _welcome(address, tokens.token if tokens else "", len(service.studies.cases)):
            tell(line)
        logger.info("serving %d cases, %d scans are refused", len(service.studies.cases), service.studies.refused)
        uvicorn.Server(config).run(sockets=[listener])


def _server_config(app: App, address: Address) -> uvicorn.Config:
    """Return the configuration of the HTTP server, its files for https read."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # addresses may hold the token
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.certificate_key,
    )
    try:
        config.load()
    except OSError as error:  # of ssl, too
        files = f"{address.certificate} and {address.certificate_key}"
        cause = error.strerror or type(error).__name__
        raise ConfigError(f"https can't use {files} ({cause}); give PEM files") from None
    return config


def listening(address: Address) -> socket.socket:
    """Return a socket that listens there; raises `ConfigError` if the address can't be used."""
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        where = f"{address.host}, port {address.port}"
        raise ConfigError(f"{where}: can't listen there ({error.strerror}); choose another --host or --port") from None


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other servers out of an output folder as long as the block lasts: one would write over the other's records.

    Raises
    ------
    ConfigError
        If another one has it.
    """
    handle = lock_file(folder / LOCK_FILE)
    if handle is None:
        raise ConfigError(f"another medseg serve uses the output folder {folder}; give each one its own")
    try:
        yield
    finally:
        os.close(handle)


class _OwnersLog(RotatingFileHandler):
    """Log files that only their owner reads, also those that are begun when one is full."""

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags, OWNER_ONLY)

        return open(self.baseFilename, "a", encoding=self.encoding, opener=opener)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write what the server does into a file that only its owner reads; it names cases, never patients or paths."""
    handler = _OwnersLog(path, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def _welcome(address: Address, token: str, cases: int) -> Iterator[str]:
    yield f"{cases} cases are served. In 3D Slicer, module MONAI Label, enter as server:"
    yield f"{address.url}/key/{token}" if token else address.url
    if not address.is_loopback and not address.certificate:
        yield "Warning: others on the network can read what is sent; give --tls-certificate and --tls-key."
