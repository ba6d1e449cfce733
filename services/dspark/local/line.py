"""A line with latency: what is put in comes out that much later, in the same order."""

import queue
import threading
import time
from collections.abc import Callable

_Due = tuple[float, Callable[[], object]]


class Line:
    """Calls functions late, one after the other, from a thread of its own."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._queue: queue.SimpleQueue[_Due | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._thread.start()

    def put(self, deliver: Callable[[], object]) -> None:
        """Call ``deliver`` after the latency; never, once the line is closed."""
        self._queue.put((time.monotonic() + self._latency_s, deliver))

    def close(self) -> None:
        """Drop what is on its way."""
        self._closed.set()
        self._queue.put(None)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while (due := self._queue.get()) is not None:
            at_s, deliver = due
            if self._closed.wait(max(0.0, at_s - time.monotonic())):
                return
            deliver()
