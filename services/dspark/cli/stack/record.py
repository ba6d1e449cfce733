"""The record of the running stack: one JSON file that every command finds."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

_FILE = "stack.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRecord:
    """One process that the supervisor keeps alive."""

    pid: int
    restarts: int
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRecord:
    """What is running, where, and how far it is.

    Attributes:
        phase: starting, ready, stopping, stopped or failed.
        problem: One line when it failed.
        supervisor_pid: Process that a stop is asked of.
        supervisor_started: Its start, in seconds since the epoch: a pid may be used again.
        gateway: URL of the HTTP front.
        controller: ``host:port`` of the controller.
        api: URL of the control API.
        mark: Value of DSPARK_STACK in the environment of every process of this stack.
        metrics: Prometheus endpoints of the processes that are no replicas.
        tls: TlsSettings that its processes speak to each other with, or None: plaintext.
        certificates: Files with the certificates of its HTTPS ports: gateway, api, metrics.
        children: The supervised processes.
        pools: Ray Serve's view of each pool.
    """

    phase: str
    problem: str = ""
    supervisor_pid: int
    supervisor_started: float
    model: str
    config: str
    gateway: str
    controller: str
    api: str = ""
    mark: str
    metrics: dict[str, str] = field(default_factory=dict)
    tls: dict[str, Any] | None = None
    certificates: dict[str, str] = field(default_factory=dict)
    children: dict[str, ChildRecord] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=dict)

    def supervisor(self) -> psutil.Process | None:
        """The supervisor, or None when it is gone."""
        try:
            process = psutil.Process(self.supervisor_pid)
            same = abs(process.create_time() - self.supervisor_started) < 1.0
        except psutil.Error:
            return None
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None


def default_state_dir() -> Path:
    """The user's state folder for dspark."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "dspark"


def write_record(state_dir: Path, record: StackRecord) -> None:
    """Replace the record as one step."""
    path = state_dir / _FILE
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record), indent=1))
    fresh.replace(path)


def read_record(state_dir: Path) -> StackRecord | None:
    """Return the record, or None when no stack was ever started here."""
    try:
        data = json.loads((state_dir / _FILE).read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{state_dir / _FILE}: {error}; remove it and start again") from None
    children = {name: ChildRecord(**child) for name, child in data.pop("children").items()}
    return StackRecord(children=children, **data)


def require_running(state_dir: Path) -> StackRecord:
    """Return the record of a stack that runs.

    Raises:
        ValueError: None does; the message says how to start one.
    """
    record = read_record(state_dir)
    if record is None or record.supervisor() is None:
        raise ValueError(f"no stack runs here (looked in {state_dir}): start one with `dspark up`")
    return record
