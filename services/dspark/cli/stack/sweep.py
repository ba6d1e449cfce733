"""No process left behind: everything of a stack carries its mark in the environment."""

import os
from pathlib import Path

import psutil

MARK = "DSPARK_STACK"

_ROUNDS = 5
"""A dying Ray may still start a process: look again until there is none."""


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return every live process of the stack ``mark``, this one excepted."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if _carries(process, mark) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone, or not ours to read
    return found


def sweep(mark: str, *, patience_s: float) -> int:
    """End what is left of a stack: ask, wait ``patience_s``, kill; return how many there were."""
    ended = 0
    for _ in range(_ROUNDS):
        left = marked_processes(mark)
        if not left:
            break
        ended += len(left)
        for process in left:
            _tell(process, kill=False)
        _, stubborn = psutil.wait_procs(left, timeout=patience_s)
        for process in stubborn:
            _tell(process, kill=True)
        psutil.wait_procs(stubborn, timeout=patience_s)
    return ended


def _carries(process: psutil.Process, mark: str) -> bool:
    raw = Path(f"/proc/{process.pid}/environ")
    if raw.exists():
        # Read as bytes: a process that sets its title clears the front of this block, and psutil
        # then finds no variable at all.
        return f"{MARK}={mark}".encode() in raw.read_bytes()
    return process.environ().get(MARK) == mark


def _tell(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass
