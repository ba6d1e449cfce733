"""Trust: whom the operator believes to be a service's gateway or controller.

By HTTPS only what shows a certificate of the service's own authority, for the one name that all its
processes have; the operator has no certificate, and proves itself by its token.
"""

import http.client
import ssl
import urllib.request
from dataclasses import dataclass
from typing import IO, Any

from dspark_operator import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """A service's authority.

    Attributes:
        authority: Its certificate, or several, as PEM; "": nothing is believed over HTTPS.
    """

    authority: str = ""

    def open(self, request: urllib.request.Request, timeout_s: float) -> IO[bytes]:
        """Ask; the answer has to be closed.

        Raises:
            urllib.error.HTTPError: The answer is a refusal.
            OSError: There is none, or it is not the service's.
        """
        opener = urllib.request.build_opener(_Handler(self.authority))
        answer: IO[bytes] = opener.open(request, timeout=timeout_s)
        return answer


NOBODY = Trust()
"""Of services without TLS."""


def problem_of(authority: str) -> str:
    """Say what is wrong with an authority, "" for nothing."""
    try:
        _context(authority)
    except (ssl.SSLError, ValueError) as error:
        return f"no certificate in PEM ({error})"
    return ""


class _Handler(urllib.request.HTTPSHandler):
    def __init__(self, authority: str) -> None:
        super().__init__()
        self._authority = authority

    def https_open(self, request: urllib.request.Request) -> Any:
        context = _context(self._authority) if self._authority else ssl.create_default_context()

        def connect(host: str, **given: Any) -> _Connection:
            return _Connection(host, context=context, **given)

        return self.do_open(connect, request)


class _Connection(http.client.HTTPSConnection):
    """Looks for the name that all processes share, not for the host in the URL."""

    def __init__(self, host: str, *, context: ssl.SSLContext, **given: Any) -> None:
        super().__init__(host, context=context, **given)
        self._trusting = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._trusting.wrap_socket(self.sock, server_hostname=names.TLS_NAME)


def _context(authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority)
    return context
