"""Whom commands believe to be a stack of ours, and what they show to it themselves."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspark.config.tls import TlsSettings

if TYPE_CHECKING:
    from dspark.rpc.credentials import Credentials


def trusted(url: str, certificate: str | None) -> ssl.SSLContext | bool:
    """Return what an HTTP client of ours verifies a server with.

    Args:
        url: Its URL.
        certificate: File of the one certificate that it must show, where that is known: a stack
            that runs here is known by it, whatever hosts it names.  None: the name in the URL is
            checked, with the authorities of the system or of SSL_CERT_FILE.
    """
    if not url.startswith("https:"):
        return True  # nothing to verify
    from dspark.rpc.https import known_to_the_system, only_this  # not for --help

    return known_to_the_system() if certificate is None else only_this(Path(certificate))


def credentials_of(tls: Mapping[str, Any] | None) -> "Credentials | None":
    """Return what is shown to the controller of a stack that was started with ``tls``."""
    from dspark.rpc.credentials import open_credentials  # grpc: not for --help

    return open_credentials(None if tls is None else TlsSettings.model_validate(tls))


def unverified(error: Exception) -> str:
    """Return what to do where a server's certificate was not believed; "" for other errors."""
    if "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return ""
    return "; name its authority's certificate in SSL_CERT_FILE"
