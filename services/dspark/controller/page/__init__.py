"""The dashboard: one page of static files, without a build and without any other host.

The path: ``index.html`` loads ``main.js``, which polls the control API and hands what it says to
one module a section.  What never happens here: markup made of data.  Model output and names are
hostile, so everything becomes a text node (``dom.js``), and the policy below forbids the rest.
"""

from collections.abc import Awaitable, Callable, Iterator
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def routes() -> Iterator[Route]:
    """Yield a route for the page and for each of its files, which are read once."""
    for file in sorted(resources.files(__name__).iterdir(), key=lambda each: each.name):
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            yield Route(path, _file(file.read_bytes(), kind))


def _file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return Response(content, headers={**_HEADERS, "content-type": kind})

    return serve
