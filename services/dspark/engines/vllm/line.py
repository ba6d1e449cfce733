"""The line from the proposer to its replica: a Unix datagram socket that never blocks a step.

What finds no room is dropped and counted.  The kernel bounds what waits.
"""

import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from dspark.engines.vllm.notes import StepNote, decode, encode

log = logging.getLogger(__name__)

_BUFFER_BYTES = 1 << 22
"""Asked for; the system may give less."""


class NoteSender:
    """The proposer's end, in vLLM's worker process; any thread.

    Raises:
        OSError: Nobody listens at the path.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self.unsent = 0
        """Notes that were dropped."""

    def send(self, note: StepNote) -> None:
        """Send it, or drop it."""
        try:
            self._socket.send(encode(note))
        except OSError:  # full, too long, or nobody left: the engine goes on
            self.unsent += 1

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()


class NoteReceiver:
    """The replica's end; its event loop's thread only."""

    def __init__(self, path: Path, take: Callable[[StepNote], None]) -> None:
        """Listen at a path that nothing is at.

        Args:
            path: Of the socket; at most 107 bytes.
            take: Called with every note, in order.
        """
        self._path = path
        self._take = take
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.bind(str(path))

    def fileno(self) -> int:
        """What an event loop watches."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take everything that has arrived."""
        while True:
            try:
                datagram = self._socket.recv(_BUFFER_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            try:
                note = decode(datagram)
            except ValueError as error:
                log.warning("%s", error)
                continue
            self._take(note)

    def hide(self) -> None:
        """Free the path: whoever is connected stays so."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def close(self) -> None:
        """Free the socket and its path."""
        self._socket.close()
        self.hide()
