"""Where a pace's seconds pass: in real time, or on paper."""

import time
from contextlib import AbstractContextManager
from typing import Protocol

Device = AbstractContextManager[object]
"""Held while a step passes: engines that share one take turns on it."""


class PaceClock(Protocol):
    """A clock that can wait."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def wait_until(self, at_s: float) -> None:
        """Return at ``at_s``, or at once where that has passed."""


class RealClock:
    """Sleeps."""

    def now(self) -> float:
        """See PaceClock."""
        return time.perf_counter()

    def wait_until(self, at_s: float) -> None:
        """See PaceClock."""
        time.sleep(max(0.0, at_s - time.perf_counter()))


class PaperClock:
    """Passes only by waiting: profiles a paced engine in no time, and exactly."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now(self) -> float:
        """See PaceClock."""
        return self._now_s

    def wait_until(self, at_s: float) -> None:
        """See PaceClock."""
        self._now_s = max(self._now_s, at_s)
