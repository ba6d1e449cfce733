"""No process left behind: everything of a stack can be told by the stack's mark.

The mark is in the environment of each process, and in the name of the scratch folder, where
every process of Ray has a log file open.  Ray's agents need the second way: they set a long
title, which overwrites their environment.
"""

import os
from pathlib import Path

import psutil

MARK = "DSPARK_STACK"

_ROUNDS = 5
"""A dying Ray may still start a process: look again until there is none."""


def scratch_name(mark: str) -> str:
    """Return the name of the stack's scratch folder."""
    return f"dspark-{mark}"


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
    if process.environ().get(MARK) == mark:
        return True
    links = Path(f"/proc/{process.pid}/fd")
    if not links.exists():
        return False
    folder = f"/{scratch_name(mark)}/"
    return any(folder in _target(link) for link in links.iterdir())


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed since
        return ""


def _tell(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass
