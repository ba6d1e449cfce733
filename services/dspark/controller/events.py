"""Events: what happened lately, for any number of listeners and no queue of their own."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from dspark.core.ids import PoolName

KEPT = 256
"""Events that a listener may fall behind, or ask for again, before some are lost to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        number: Grows by one with each event of this process.
        kind: budget, conditions, policy or replicas.
        pool: Where.
        text: One sentence for people.
        unix_s: When.
    """

    number: int
    kind: str
    pool: str
    text: str
    unix_s: float


class Events:
    """A ring of the newest events; every listener reads it at its own pace.

    Used from one event loop.

    Args:
        clock: Tells when something happened, in Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=KEPT)
        self._number = 0
        self._more = asyncio.Event()

    @property
    def newest(self) -> int:
        """The number of the newest event."""
        return self._number

    def publish(self, kind: str, pool: str, text: str) -> None:
        """Append an event and wake every listener."""
        self._number += 1
        self._ring.append(
            Event(number=self._number, kind=kind, pool=pool, text=text, unix_s=self._clock())
        )
        more, self._more = self._more, asyncio.Event()
        more.set()

    def since(self, number: int) -> list[Event]:
        """Return the events after ``number`` that are still kept, oldest first."""
        return [event for event in self._ring if event.number > number]

    async def listen(self, number: int) -> AsyncIterator[Event]:
        """Yield the events after ``number``, for ever; those that fell out of the ring are lost."""
        while True:
            more = self._more
            events = self.since(number)
            for event in events:
                number = event.number
                yield event
            if not events:
                await more.wait()


def conditions_changed(
    before: Mapping[PoolName, tuple[str, ...]], after: Mapping[PoolName, tuple[str, ...]]
) -> list[tuple[PoolName, str]]:
    """Return (pool, sentence) for each condition that came or went."""
    changes = []
    for pool in sorted({*before, *after}):
        old, new = before.get(pool, ()), after.get(pool, ())
        changes += [(pool, text) for text in new if text not in old]
        changes += [(pool, f"over: {text}") for text in old if text not in new]
    return changes
