"""A running stack, driven only by what a user has: the command line and the HTTP API."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from dspark.cli.stack.sweep import marked_processes

ROOT = Path(__file__).parent.parent
PYTHON = os.environ.get("DSPARK_PYTHON", sys.executable)
"""Interpreter of this repository's environment; tests of another engine run in another one."""

_START_S = 600.0


def dspark(*words: str, timeout_s: float = 240.0) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end."""
    return subprocess.run(
        [PYTHON, "-m", "dspark.cli", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def environment() -> dict[str, str]:
    """This process's environment, with the source roots where the package is not installed."""
    roots = [str(ROOT / name) for name in ("services", "kernels", "operators")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])}


@dataclass(frozen=True)
class Stack:
    """One stack on this machine; ``words`` start it."""

    state_dir: Path
    words: Sequence[str]
    record: dict[str, Any] = field(default_factory=dict)

    def up(self) -> None:
        """Start it, detached."""
        done = dspark("up", "--detach", *self.words, timeout_s=_START_S)
        assert done.returncode == 0, done.stderr
        self.record.update(json.loads((self.state_dir / "stack.json").read_text()))

    def down(self) -> None:
        """Stop it."""
        done = dspark("down", "--state-dir", str(self.state_dir))
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, Any]:
        """``dspark status --json``."""
        done = dspark("status", "--json", "--state-dir", str(self.state_dir))
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def pool(self, name: str) -> dict[str, Any]:
        """One pool of the status."""
        (found,) = [pool for pool in self.status()["pools"] if pool["name"] == name]
        return dict(found)

    def scale(self, pool: str, replicas: int) -> None:
        """``dspark scale``."""
        done = dspark(
            "scale", "--pool", pool, "--replicas", str(replicas), "--state-dir", str(self.state_dir)
        )
        assert done.returncode == 0, done.stderr

    def complete(self, prompt: str, **body: Any) -> dict[str, Any]:
        """One completion, not streamed."""
        answer = httpx.post(
            f"{self.url}/v1/completions",
            json={"model": "dspark-demo", "prompt": prompt, **body},
            timeout=120.0,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    @property
    def url(self) -> str:
        """Where clients go."""
        return str(self.record["gateway"])

    @property
    def mark(self) -> str:
        """What marks its processes."""
        return str(self.record["mark"])


@contextmanager
def running_stack(state_dir: Path, words: Sequence[str]) -> Iterator[Stack]:
    """Start a stack; stop it at the end, and check that no process is left."""
    running = Stack(state_dir=state_dir, words=words)
    running.up()
    try:
        yield running
    finally:
        running.down()
        assert marked_processes(running.mark) == []


def wait_until(
    holds: Callable[[], bool], *, timeout_s: float, what: str, period_s: float = 0.5
) -> None:
    """Poll until ``holds``; fail with ``what`` after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(period_s)


def drafted_steps(answer: Mapping[str, Any]) -> int:
    """Steps of a completion that had a draft."""
    counts = answer["metrics"]["speculative_decoding"] or {}
    return int(counts.get("num_spec_steps", 0))
