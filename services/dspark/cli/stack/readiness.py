"""How far a start is, read from outside: the fleet, Ray Serve's view, the gateway's answer."""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from dspark.cli.trust import trusted
from dspark.core.fleet import Fleet
from dspark.rpc.ask import fleet_snapshot
from dspark.rpc.credentials import Credentials

_ASK_TIMEOUT_S = 2.0
_EXCEPTION_LINE = re.compile(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception)): (.+)$", re.MULTILINE)
_MISTAKES = {"ValueError", "FileNotFoundError", "MemoryError", "ImportError", "ModuleNotFoundError"}


def fleet_or_none(controller: str, credentials: Credentials | None = None) -> Fleet | None:
    """Return the fleet, or None while the controller does not answer."""
    try:
        return fleet_snapshot(controller, credentials=credentials, timeout_s=_ASK_TIMEOUT_S)
    except ConnectionError:
        return None


def pool_counts(fleet: Fleet | None, wanted: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return (ready, wanted) by pool; nothing is ready while the fleet is unknown."""
    pools = () if fleet is None else fleet.pools
    ready = {str(pool.name): pool.ready_replicas for pool in pools}
    return {name: (ready.get(name, 0), count) for name, count in wanted.items()}


def gateway_answers(url: str, certificate: str | None = None) -> bool:
    """Whether the gateway would serve a request now; of its certificate see ``trusted``."""
    verify = trusted(url, certificate)
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/ready", verify=verify, timeout=_ASK_TIMEOUT_S).status_code == 200
    return False


def serve_states(status_file: Path) -> dict[str, dict[str, Any]]:
    """Return what Ray Serve says of each pool; empty before it said anything."""
    try:
        states: dict[str, dict[str, Any]] = json.loads(status_file.read_text())
    except FileNotFoundError:
        return {}
    return states


def start_problem(states: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return one line on why a pool cannot start, or None while it still may.

    A caller's mistake (a missing file, a pair that does not fit) is final at once; anything else
    only when Ray Serve gave up.
    """
    for pool, state in states.items():
        message = str(state.get("message", ""))
        found = _EXCEPTION_LINE.findall(message)
        kind, text = found[-1] if found else ("", "")
        if kind in _MISTAKES:
            return f"{pool}: {text}"
        if state.get("state") == "DEPLOY_FAILED":
            lines = [line.strip() for line in message.splitlines() if line.strip()]
            return f"{pool}: {kind}: {text}" if kind else f"{pool}: {' '.join(lines[-1:])}"
    return None
