"""Routing: from endpoints to an ASGI application, and what it answers when something goes wrong."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dspark.controller import page as dashboard
from dspark.controller.api.endpoints import Endpoint
from dspark.controller.api.openapi import document, page
from dspark.controller.api.refusals import Refusal

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


def make_app(endpoints: Sequence[tuple[Endpoint, Handler]]) -> Starlette:
    """Return the application: the endpoints, their documentation, and a sign of life."""
    paths: dict[str, dict[str, Handler]] = {}
    for endpoint, handler in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = handler
    return Starlette(
        routes=[
            # One route a path, so that a wrong method is told all that are right.
            *(Route(path, _dispatch(known), methods=list(known)) for path, known in paths.items()),
            Route("/health", _healthy),
            Route("/openapi.json", _document),
            Route("/docs", _page),
            *dashboard.routes(),
        ],
        exception_handlers={
            Refusal: _on_refusal,
            HTTPException: _on_http_exception,
            ClientDisconnect: _on_disconnect,
            Exception: _on_fault,
        },
    )


def _dispatch(by_method: Mapping[str, Handler]) -> Handler:
    async def serve(request: Request) -> Response:
        return await by_method["GET" if request.method == "HEAD" else request.method](request)

    return serve


async def _healthy(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _document(request: Request) -> Response:
    return JSONResponse(document())


async def _page(request: Request) -> Response:
    return HTMLResponse(page())


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    refusal = Refusal(
        error.status_code, "unknown_path", f"{where}: {error.detail}", "see /docs",
        headers=dict(error.headers or {}),
    )  # fmt: skip
    return await _on_refusal(request, refusal)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_fault(request: Request, error: Exception) -> Response:
    log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _on_refusal(
        request, Refusal(500, "internal", "the controller failed at this", "see its log")
    )
