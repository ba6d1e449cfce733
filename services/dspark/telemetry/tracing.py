"""Traces: spans of requests, sent to an OpenTelemetry collector; off unless one is named.

OpenTelemetry's own environment variables decide: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or
``..._TRACES_ENDPOINT``) switches it on, ``OTEL_TRACES_SAMPLER`` and its ``_ARG`` choose requests,
``OTEL_SERVICE_NAME`` (``dspark`` by default) gets the role as a suffix.  While it is off every span
is one that records nothing, and OpenTelemetry's SDK is not even imported.
"""

import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Metadata = tuple[tuple[str, str], ...]
"""Trace context as gRPC metadata and as HTTP headers: names in lower case."""

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FIELDS = ("traceparent", "tracestate")
_PROPAGATOR = TraceContextTextMapPropagator()
_FLUSH_MS = 2000

_lock = threading.Lock()
_provider: "TracerProvider | None" = None  # one a process


def wanted(environment: Mapping[str, str]) -> bool:
    """Return whether an environment names a collector."""
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not disabled and any(environment.get(name) for name in ENDPOINTS)


def start(role: str, replica: str = "") -> None:
    """Send this process's spans, if its environment names a collector; a second call is nothing.

    Args:
        role: Suffix of the service's name.
        replica: Its name in the fleet.
    """
    global _provider
    with _lock:
        if _provider is not None or not wanted(os.environ):
            return
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME") or "dspark"
        resource = Resource.create(
            {"service.name": f"{name}-{role}", "service.instance.id": replica or role}
        )
        provider = TracerProvider(resource=resource)
        # Its queue is bounded, and spans are sent by a thread of its own.
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        _provider = provider


def started() -> bool:
    """Return whether spans are sent."""
    return _provider is not None


def flush() -> None:
    """Send what is left, within two seconds; blocks."""
    if _provider is not None:
        _provider.force_flush(_FLUSH_MS)


def stop() -> None:
    """Send what is left, and nothing more; blocks."""
    global _provider
    flush()
    with _lock:
        provider, _provider = _provider, None
    if provider is not None:
        provider.shutdown()


def tracer() -> trace.Tracer:
    """Return what makes spans; they record nothing while tracing is off."""
    return trace.NoOpTracer() if _provider is None else _provider.get_tracer("dspark")


def parent_of(carrier: Iterable[tuple[str, str | bytes]]) -> Context:
    """Return the context that headers or metadata carry; an empty one where there is none."""
    found = {name: str(value) for name, value in carrier if name in _FIELDS}
    return _PROPAGATOR.extract(found, context=Context())


def metadata_of(span: trace.Span) -> Metadata:
    """Return what carries a span to another process; empty for one that records nothing."""
    carrier: dict[str, str] = {}
    if span.get_span_context().is_valid:
        _PROPAGATOR.inject(carrier, context=trace.set_span_in_context(span, Context()))
    return tuple(carrier.items())
