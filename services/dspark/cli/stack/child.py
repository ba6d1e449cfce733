"""One supervised process: started, watched, restarted with back-off, stopped."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dspark.cli.stack.record import ChildRecord

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 15.0
_STEADY_S = 30.0
_TAIL_BYTES = 4000
_POLL_S = 0.05


class Child:
    """A process of the stack.

    It is its own session leader, so that a terminal's Ctrl-C does not reach it, and its output
    goes to a log file.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        self.restarts = 0
        self._command = list(command)
        self._env = {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._pause_s = _BACKOFF_FIRST_S
        self._retry_at_s: float | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        self._started_s = time.monotonic()
        self._retry_at_s = None

    @property
    def pid(self) -> int:
        """Its process id, 0 before the start."""
        return 0 if self._process is None else self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def exit_code(self) -> int | None:
        """Its exit code, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def revive(self) -> bool:
        """Start it again if it died and its pause is over; return whether it was started."""
        if self.alive():
            return False
        now_s = time.monotonic()
        if self._retry_at_s is None:
            if now_s - self._started_s > _STEADY_S:
                self._pause_s = _BACKOFF_FIRST_S
            self._retry_at_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, _BACKOFF_MAX_S)
        if now_s < self._retry_at_s:
            return False
        self.restarts += 1
        self.start()
        return True

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None and self.alive():
            self._process.terminate()

    def wait(self, timeout_s: float, hurry: threading.Event | None = None) -> bool:
        """Wait for its end; kill it after ``timeout_s`` or when ``hurry`` is set.

        Returns whether it ended by itself.
        """
        deadline_s = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline_s or (hurry is not None and hurry.is_set()):
                assert self._process is not None
                self._process.kill()
                self._process.wait()
                return False
            time.sleep(_POLL_S)
        return True

    def last_words(self) -> str:
        """The last line of its log, which for a failed start is its one line of error."""
        try:
            with self.log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def record(self) -> ChildRecord:
        """What the stack's record says of it."""
        return ChildRecord(pid=self.pid, restarts=self.restarts, alive=self.alive())
