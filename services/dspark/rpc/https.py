"""TLS of HTTP: servers that read their certificate again, and whom our own clients believe."""

import datetime
import ssl
from pathlib import Path

from dspark.config.tls import HttpsSettings
from dspark.rpc.certificates import first_certificate, read_https
from dspark.rpc.watched import Watched
from dspark.telemetry import metrics


def server_context(settings: HttpsSettings) -> ssl.SSLContext:
    """Return the context of a server whose clients need no certificate.

    Its files are looked at in every handshake; connections that are open keep the certificate
    that they began with.

    Raises:
        ValueError: One line that names the file, what is wrong with it, and the way out.
    """
    watched = Watched((settings.certificate, settings.key), lambda: _loaded(settings))
    (context, _), _ = watched.current()

    def newest(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        connection.context = watched.current()[0][0]

    # Called in every handshake, whether the client names a server or not.
    context.sni_callback = newest
    metrics.CERTIFICATE_EXPIRY.labels("https").set_function(
        lambda: watched.current()[0][1].timestamp()
    )
    return context


def _loaded(settings: HttpsSettings) -> tuple[ssl.SSLContext, datetime.datetime]:
    """Return a context with the files as they are, and when its certificate ends."""
    identity = read_https(settings, now=datetime.datetime.now(datetime.UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (ssl.SSLError, OSError) as error:  # replaced since, or more than OpenSSL takes
        raise ValueError(f"{settings.certificate} with {settings.key}: {error}") from None
    return context, identity.expires


def known_to_the_system(*, authority: Path | None = None) -> ssl.SSLContext:
    """Return a client's context that checks the name in the URL, as browsers do.

    Authorities are the system's (or those of SSL_CERT_FILE), and ``authority``.

    Raises:
        ValueError: There is no certificate in ``authority``.
    """
    context = ssl.create_default_context()
    if authority is not None:
        try:
            context.load_verify_locations(cafile=authority)
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"{authority}: no certificate in PEM: {error}") from None
    return context


def only_this(certificate: Path) -> ssl.SSLContext:
    """Return a client's context that takes a server with this very certificate, and no other.

    For who has the server's file at hand: it may name other hosts than the one in the URL, and be
    signed by anybody.

    Raises:
        ValueError: There is no certificate in the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The certificate itself is the anchor; not those after it, which sign for others as well.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=first_certificate(certificate))
    return context
