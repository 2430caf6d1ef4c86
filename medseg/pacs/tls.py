"""TLS on both sides: each shows a certificate, and checks the other's (PS3.15 B.9 to B.12)."""

from __future__ import annotations

import ssl

from medseg.errors import ConfigError
from medseg.pacs.settings import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return what a listening node needs; callers without a certificate of the authority are refused."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return what a sending node needs; the other's certificate must be for its host."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def _loaded(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
        context.load_verify_locations(files.authority)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(str(path) for path in (files.certificate, files.key, files.authority))
        raise ConfigError(f"TLS can't use {names} ({error.strerror or type(error).__name__}); give PEM files") from None
    return context
