"""The HTTP application: routes, limits, and errors in OpenAI's shape."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

from opentelemetry import trace
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dspark.config.gateway import GatewaySettings
from dspark.core.fleet import Fleet
from dspark.gateway.answers import Answer, error_response
from dspark.gateway.bodies import GenerationBody
from dspark.gateway.choices import Choices
from dspark.gateway.errors import ApiError, internal, no_verifier, overloaded, unknown_model
from dspark.gateway.fleet import fleet_json
from dspark.gateway.observed import CLIENT_GONE, Observed, trace_metadata
from dspark.gateway.parsing import parse_chat, parse_completion
from dspark.gateway.requests import Job, Ticket, chat_job, completion_job
from dspark.gateway.served_model import ServedModel
from dspark.gateway.sessions import Sessions
from dspark.gateway.shapes import ChatShape, CompletionShape, Envelope, Shape
from dspark.rpc.watch import Latest
from dspark.telemetry import metrics

B = TypeVar("B", bound=GenerationBody)
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class Gateway:
    """What the routes share.

    Args:
        settings: Limits.
        model: The served model.
        sessions: Runs generations.
        fleet: As last heard, for people.
    """

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        model: ServedModel,
        sessions: Sessions,
        fleet: Latest[Fleet],
    ) -> None:
        self._settings = settings
        self._model = model
        self._sessions = sessions
        self._fleet = fleet
        self._created = int(time.time())
        self.in_flight = 0
        self.draining = False
        self.stopping = asyncio.Event()
        """Set when open streams have had their time."""

    def app(self, lifespan: Lifespan | None = None) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/dspark/fleet", self.fleet),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(Observed, routes=[route.path for route in routes])],
            exception_handlers={
                ApiError: _on_api_error,
                HTTPException: _on_http_exception,
                ClientDisconnect: _on_disconnect,
                Exception: _on_fault,
            },
            lifespan=lifespan,
        )

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        if request.path_params["name"] != self._model.name:
            raise unknown_model(request.path_params["name"], self._model.name)
        return JSONResponse(self._card())

    async def completions(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        body = parse_completion(await self._body(request))
        ticket = _ticket(request, "cmpl")
        job = await _made(completion_job, body, self._model, self._settings, ticket)
        return self._answer(job, CompletionShape(envelope=self._envelope(job)))

    async def chat_completions(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        body = parse_chat(await self._body(request))
        ticket = _ticket(request, "chatcmpl")
        job = await _made(chat_job, body, self._model, self._settings, ticket)
        return self._answer(job, ChatShape(envelope=self._envelope(job)))

    async def health(self, request: Request) -> Response:
        """``GET /health``: the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """``GET /ready``: new requests can be served."""
        if self.draining:
            raise no_verifier("The server is stopping")
        if not self._sessions.ready:
            raise no_verifier()
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: Prometheus."""
        return Response(
            generate_latest(metrics.REGISTRY), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    async def fleet(self, request: Request) -> Response:
        """``GET /dspark/fleet``: the fleet as this gateway knows it."""
        return Response(fleet_json(self._fleet.value), media_type="application/json")

    @contextmanager
    def lease(self) -> Iterator[asyncio.Event]:
        """Count a request as in flight; the event says when it must end."""
        self.in_flight += 1
        try:
            yield self.stopping
        finally:
            self.in_flight -= 1

    def _answer(self, job: Job, shape: Shape) -> Response:
        limit = self._settings.max_concurrent
        if self.in_flight >= limit:
            raise overloaded(f"{limit} requests are in flight, which is this gateway's limit")
        trace.get_current_span().set_attributes(
            {
                "gen_ai.operation.name": shape.operation,
                "gen_ai.provider.name": "dspark",
                "gen_ai.request.model": self._model.name,
                "gen_ai.response.id": job.request_id,
                "gen_ai.usage.input_tokens": job.prompt_tokens,
            }
        )
        return Answer(job, Choices(job, self._sessions, self._model), shape, self.lease)

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.max_body_bytes
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise ApiError(413, f"The body is larger than {limit} bytes", code="body_too_large")
        return bytes(body)

    def _envelope(self, job: Job) -> Envelope:
        return Envelope(
            id=job.request_id,
            created=int(time.time()),
            model=self._model.name,
            token_ids=job.token_ids,
            logprobs=job.logprobs,
        )

    def _card(self) -> dict[str, object]:
        return {
            "id": self._model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "dspark",
            "max_model_len": self._model.max_context_tokens,
        }


async def _made(
    make: Callable[[B, ServedModel, GatewaySettings, Ticket], Job],
    body: B,
    model: ServedModel,
    settings: GatewaySettings,
    ticket: Ticket,
) -> Job:
    """Make a job; one with a grammar, which takes a while to check, beside the loop."""
    if body.response_format is None and body.structured_outputs is None:
        return make(body, model, settings, ticket)
    return await asyncio.to_thread(make, body, model, settings, ticket)


def _ticket(request: Request, prefix: str) -> Ticket:
    return Ticket(
        request_id=f"{prefix}-{uuid.uuid4().hex}",
        seed=secrets.randbits(63),
        metadata=trace_metadata(request.headers),
    )


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return error_response(ApiError(error.status_code, message))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)  # Nobody reads it.


async def _on_fault(request: Request, error: Exception) -> Response:
    return error_response(internal("Internal error"))
