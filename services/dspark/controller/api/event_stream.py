"""Events as server-sent events, with a word now and then so that a lost listener is noticed."""

import asyncio
import json
from collections.abc import AsyncIterator

from dspark.controller.events import Event, Events

HEARTBEAT_S = 10.0
"""Seconds of silence after which a comment is sent."""


async def as_text(events: Events, after: int, stopping: asyncio.Event) -> AsyncIterator[str]:
    """Yield the events after a number as lines of text/event-stream, until ``stopping`` is set."""
    listening = events.listen(after)
    stop: asyncio.Future[object] = asyncio.ensure_future(stopping.wait())
    following: asyncio.Future[Event] = asyncio.ensure_future(anext(listening))
    try:
        yield ": listening\n\n"
        while not stop.done():
            both: set[asyncio.Future[object]] = {following, stop}  # type: ignore[arg-type]
            await asyncio.wait(both, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                yield _line(following.result())
                following = asyncio.ensure_future(anext(listening))
            else:
                yield ": still here\n\n"
    finally:
        for task in (following, stop):
            task.cancel()
        await asyncio.gather(following, stop, return_exceptions=True)


def _line(event: Event) -> str:
    data = json.dumps({"pool": event.pool, "text": event.text, "unix_s": event.unix_s})
    return f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n"
