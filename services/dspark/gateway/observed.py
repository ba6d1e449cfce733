"""Around every HTTP request: its id, its span, and its entry in the metrics."""

import re
import uuid
from collections.abc import Collection

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspark.telemetry import logs, metrics, tracing

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")

_TRACED = frozenset({"/v1/completions", "/v1/chat/completions"})

CLIENT_GONE = 499
"""Status of a request whose client left before the answer began (nginx's number)."""


class Observed:
    """Middleware: echoes ``x-request-id``, counts by route and status.

    Args:
        app: The application.
        routes: Paths with a label of their own; all others are counted as ``other``.
    """

    def __init__(self, app: ASGIApp, routes: Collection[str]) -> None:
        self._app = app
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        status = CLIENT_GONE
        span = self._span(scope, headers, request_id)

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            with trace.use_span(span, end_on_exit=False), logs.about(http_request_id=request_id):
                await self._app(scope, receive, observe)
        finally:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(trace.StatusCode.ERROR)
            span.end()
            route = scope["path"] if scope["path"] in self._routes else "other"
            metrics.HTTP_REQUESTS.labels(route, str(status)).inc()

    def _span(self, scope: Scope, headers: Headers, request_id: str) -> trace.Span:
        """Begin a generation's span, in the caller's trace where there is one."""
        if scope["path"] not in _TRACED:
            return trace.INVALID_SPAN
        return tracing.tracer().start_span(
            f"{scope['method']} {scope['path']}",
            context=tracing.parent_of(trace_metadata(headers)),
            kind=trace.SpanKind.SERVER,
            attributes={
                "http.request.method": scope["method"],
                "url.path": scope["path"],
                "dspark.http_request_id": request_id,
            },
        )


def trace_metadata(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Return the W3C trace context of a request, as gRPC metadata; empty without one."""
    parent = headers.get("traceparent", "")
    if not _TRACEPARENT.fullmatch(parent):
        return ()
    state = headers.get("tracestate", "")
    if not _TRACESTATE.fullmatch(state):
        return (("traceparent", parent),)
    return (("traceparent", parent), ("tracestate", state))
