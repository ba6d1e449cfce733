"""No process left behind: everything of a stack carries its mark in the environment."""

import os

import psutil

MARK = "DSPARK_STACK"


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return every live process of the stack ``mark``, this one excepted."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # gone, or not ours to read
    return found


def sweep(mark: str, *, patience_s: float) -> int:
    """End what is left of a stack: ask, wait ``patience_s``, kill; return how many there were."""
    left = marked_processes(mark)
    for process in left:
        _tell(process, kill=False)
    _, stubborn = psutil.wait_procs(left, timeout=patience_s)
    for process in stubborn:
        _tell(process, kill=True)
    psutil.wait_procs(stubborn, timeout=patience_s)
    return len(left)


def _tell(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass
