"""Mutual TLS of one process towards the others: its certificate, and whom it takes for one of us.

Who has a certificate of the service's own authority is let in; there is no list of names.  What a
server's certificate is called is checked against one name of the whole service, because addresses
come and go with replicas.  That loses nothing: the authority signs for this service alone, so an
attacker without a certificate of it can be no server, and one with it is inside already.
"""

import datetime
import threading

import grpc

from dspark.config.tls import TlsSettings
from dspark.rpc.certificates import MutualIdentity, read_mutual
from dspark.rpc.watched import Watched
from dspark.telemetry import metrics


class Credentials:
    """Proves who we are; reads its files again when they change.

    Raises:
        ValueError: One line that names the file, what is wrong with it, and the way out.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self.settings = settings
        files = (settings.certificate, settings.key, settings.authority)
        self._identity = Watched(files, self._read)
        # At each scrape: a process without handshakes would go on telling of a replaced one.
        metrics.CERTIFICATE_EXPIRY.labels("tls").set_function(self._expires_s)
        self._lock = threading.Lock()
        self._channel: tuple[int, grpc.ChannelCredentials] | None = None

    @property
    def number(self) -> int:
        """Grows with each certificate: what was opened under another number shows an old one."""
        return self._identity.current()[1]

    def for_channel(self) -> grpc.ChannelCredentials:
        """Return what a channel opened now shows, for as long as it lives."""
        identity, number = self._identity.current()
        with self._lock:
            if self._channel is None or self._channel[0] != number:
                self._channel = (
                    number,
                    grpc.ssl_channel_credentials(
                        identity.authority, identity.key, identity.certificate
                    ),
                )
            return self._channel[1]

    def channel_options(self) -> list[tuple[str, str]]:
        """Return the options of a channel that checks a server's certificate."""
        name = self.settings.server_name
        return [] if name is None else [("grpc.ssl_target_name_override", name)]

    def for_server(self) -> grpc.ServerCredentials:
        """Return what a server shows; it asks for the newest certificate at every handshake."""
        first, told = self._identity.current()

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal told
            identity, number = self._identity.current()
            if number == told:
                return None  # go on with the last one
            told = number
            return _configuration(identity)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(first),
            newest,  # type: ignore[arg-type] # None is documented, the stubs miss it
            require_client_authentication=True,
        )

    def _read(self) -> MutualIdentity:
        return read_mutual(self.settings, now=datetime.datetime.now(datetime.UTC))

    def _expires_s(self) -> float:
        return self._identity.current()[0].expires.timestamp()


def open_credentials(settings: TlsSettings | None) -> Credentials | None:
    """Return the credentials of a process, or None where it speaks plaintext.

    Raises:
        ValueError: See Credentials.
    """
    return None if settings is None else Credentials(settings)


def _configuration(identity: MutualIdentity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificate)], root_certificates=identity.authority
    )
