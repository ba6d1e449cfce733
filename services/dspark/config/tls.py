"""Settings of TLS: the certificate of a process, and whose word it takes for those of others."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from dspark.config.base import Settings

HttpPort = Literal["gateway", "api", "metrics"]


class HttpsSettings(Settings):
    """The certificate of an HTTP server; its clients need none."""

    certificate: Path
    """File (PEM) with the certificate, and after it those between it and an authority that clients
    know."""
    key: Path
    """File (PEM) with its private key, without a passphrase."""

    def absolute(self) -> Self:
        """Return a copy that means the same files in every folder."""
        update = {"certificate": self.certificate.absolute(), "key": self.key.absolute()}
        return self.model_copy(update=update)


class TlsSettings(Settings):
    """Mutual TLS between the processes of one service.

    Each shows a certificate of the service's own authority, and takes nobody without one. Files
    that change are read again, without a restart.
    """

    certificate: Path
    """File (PEM) with this process's certificate, for servers and clients, and after it those
    between it and the authority. All processes may share one."""
    key: Path
    """File (PEM) with its private key, without a passphrase."""
    authority: Path
    """File (PEM) with the certificate of the service's own authority, which signs for nothing else:
    whoever has a certificate of it is let in. Several, while one replaces another."""
    server_name: str | None = Field(
        default="dspark.internal", pattern=r"^[A-Za-z0-9_.-]+$", max_length=253
    )
    """DNS name that is in the certificate of every server, whatever its address: replicas come and
    go with addresses that nobody can put into certificates. null: the host of the address is."""
    plain_http: tuple[HttpPort, ...] = ()
    """HTTP ports that go without TLS: ``gateway`` (behind something that ends TLS), ``api``
    (control API and dashboard), ``metrics`` (for a Prometheus that does not know the authority)."""

    def absolute(self) -> Self:
        """Return a copy that means the same files in every folder."""
        files = {
            "certificate": self.certificate.absolute(),
            "key": self.key.absolute(),
            "authority": self.authority.absolute(),
        }
        return self.model_copy(update=files)


def https_of(
    port: HttpPort, tls: TlsSettings | None, own: HttpsSettings | None = None
) -> HttpsSettings | None:
    """Return the certificate that an HTTP port shows: its own, else that of ``tls``; None: none."""
    if own is not None:
        return own
    if tls is None or port in tls.plain_http:
        return None
    return HttpsSettings(certificate=tls.certificate, key=tls.key)
