"""A value of which only the newest matters, awaited by any number of tasks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Holds the newest value; a slow watcher skips what it missed.

    Not thread-safe: used from one event loop.
    """

    def __init__(self, value: T | None = None) -> None:
        self._value = value
        self._version = 0 if value is None else 1
        self._changed = asyncio.Event()

    @property
    def value(self) -> T | None:
        """The newest value, or None before the first."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the value and wake every watcher."""
        self._value = value
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def watch(self) -> AsyncIterator[T]:
        """Yield the present value at once, then each newer one."""
        seen = 0
        while True:
            changed = self._changed
            if self._version != seen and self._value is not None:
                seen = self._version
                yield self._value
            else:
                await changed.wait()
