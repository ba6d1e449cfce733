"""The files of TLS of a whole stack: judged before anything starts, and which port shows which."""

import datetime

from dspark.config.system import SystemSettings
from dspark.config.tls import https_of
from dspark.rpc.certificates import read_https, read_mutual


def check_files(settings: SystemSettings) -> None:
    """Read every file that the stack's processes will read.

    Raises:
        ValueError: One line that names the first file at fault, and the way out.
    """
    now = datetime.datetime.now(datetime.UTC)
    for tls in (settings.endpoint.tls, settings.controller.tls, settings.gateway.tls):
        if tls is not None:
            read_mutual(tls, now=now)
    for shown in (settings.gateway.served_with(), settings.controller.api_served_with()):
        if shown is not None:
            read_https(shown, now=now)


def certificates_of(settings: SystemSettings) -> dict[str, str]:
    """Return the files of the certificates that HTTPS ports show: gateway, api, metrics."""
    shown = {
        "gateway": settings.gateway.served_with(),
        "api": settings.controller.api_served_with(),
        "metrics": https_of("metrics", settings.endpoint.tls),
    }
    return {port: str(each.certificate) for port, each in shown.items() if each is not None}
