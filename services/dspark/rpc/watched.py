"""Something made from files, and made again when they change."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Made = TypeVar("Made")


class Watched(Generic[Made]):
    """The newest good reading of some files.

    ``current`` costs a look at each file's date, so it may be called at every handshake, from any
    thread.  Files that are replaced one after the other do not fit together for a moment: what
    cannot be read is said once and the last good reading stays.

    Args:
        files: The files.
        make: Reads them; ValueError says what is wrong.

    Raises:
        ValueError: They cannot be read the first time.
    """

    def __init__(self, files: Sequence[Path], make: Callable[[], Made]) -> None:
        self._files = tuple(files)
        self._make = make
        self._lock = threading.Lock()
        self._stamp = _stamp(self._files)
        self._made = make()
        self._number = 1
        self._said = ""

    def current(self) -> tuple[Made, int]:
        """Return the newest good reading, and its number, which grows with each."""
        with self._lock:
            # Looked at before they are read: a change in between is found the next time.
            stamp = _stamp(self._files)
            if stamp != self._stamp:
                self._renew(stamp)
            return self._made, self._number

    def _renew(self, stamp: tuple[object, ...]) -> None:
        try:
            self._made = self._make()
        except ValueError as error:
            if str(error) != self._said:
                log.warning("%s (the one before stays in use)", error)
            self._said = str(error)
            return
        self._stamp, self._said = stamp, ""
        self._number += 1
        log.info("read again: %s", ", ".join(str(file) for file in self._files))


def _stamp(files: Sequence[Path]) -> tuple[object, ...]:
    found: list[object] = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
    return tuple(found)
