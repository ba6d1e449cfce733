"""Logs: lines for people, or one JSON object a line where ``DSPARK_LOG_FORMAT`` is ``json``.

A line says which request and session it is about: from ``extra={"request_id": ..., "session":
...}``, or from ``about`` around the work.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from opentelemetry import trace

FORMAT = "DSPARK_LOG_FORMAT"
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = ("request_id", "session")
_subject: ContextVar[dict[str, str | int]] = ContextVar("subject")


@contextmanager
def about(**subject: str | int) -> Iterator[None]:
    """Say what lines of this task are about: ``request_id``, ``session``, ``http_request_id``."""
    token = _subject.set({**_subject.get({}), **subject})
    try:
        yield
    finally:
        _subject.reset(token)


class JsonLines(logging.Formatter):
    """One object a line; ``role`` and ``replica`` say whose."""

    def __init__(self, role: str, replica: str) -> None:
        super().__init__()
        self._own = {"role": role, "replica": replica}

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._own,
            **_subject.get({}),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start(role: str, replica: str = "", *, hosted: bool = False) -> None:
    """Write this process's logs to stderr.

    Args:
        role: Whose they are.
        replica: Its name in the fleet.
        hosted: Whether the process belongs to somebody else (a Ray worker), whose own handlers
            write text: then only JSON is a matter of ours.

    Raises:
        ValueError: ``DSPARK_LOG_FORMAT`` is neither ``text`` nor ``json``.
    """
    chosen = os.environ.get(FORMAT) or "text"
    if chosen not in {"text", "json"}:
        raise ValueError(f"{FORMAT} is {chosen!r}: set it to text or json")
    if chosen == "text":
        if not hosted:
            logging.basicConfig(level=logging.INFO, format=_TEXT)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(role, replica))
    ours = logging.getLogger("dspark") if hosted else logging.getLogger()
    ours.handlers = [handler]
    ours.setLevel(logging.INFO)
    ours.propagate = not hosted
