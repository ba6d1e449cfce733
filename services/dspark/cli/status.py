"""``dspark status`` and ``dspark scale``."""

import getpass
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape

from dspark.cli.budget_view import policies_line
from dspark.cli.control_api import ControlApi, policies_of
from dspark.cli.counters import since_start
from dspark.cli.fleet_view import describe_pools, pool_tables
from dspark.cli.options import Json, StateDir, state_folder
from dspark.cli.stack.record import StackRecord, read_record, require_running
from dspark.cli.trust import credentials_of
from dspark.core.fleet import Role

_TIMEOUT_S = 3.0
_WATCH_S = 1.0


def status(
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show again every second.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Show pools, replicas, budgets, accepted length, tokens/s and bytes moved.

    JSON: {"phase", "problem", "model", "state_dir", "gateway", "metrics": {NAME: URL},
    "controller": {"address", "api", "reachable", "term", "problem"}, "processes": {NAME: {"pid",
    "restarts", "alive"}}, "pools": [{"name", "role", "wanted_replicas", "wanted_because",
    "ready_replicas", "conditions", "serve", "budget", "tokens_per_s", "accepted_length",
    "bytes_per_session_round", "replicas": [{"name", "pid", "state", ...}]}], "policies": [{"pool",
    "policy", "layers", ...}]} (null where the control API does not tell us).  Rates are those
    of the newest reports (null when nothing was decoded); a verifier pool has "since_start" with
    the same counts over the life of its replicas.  Without a controller "pools" is empty and
    "controller" says so; the exit code is 0 all the same.
    """
    folder = state_folder(state_dir)
    if as_json:
        print(json.dumps(_collect(folder), indent=1))
        return
    console = Console(highlight=False)
    if not watch:
        console.print(_render(_collect(folder)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_render(_collect(folder)), refresh=True)
            time.sleep(_WATCH_S)


def scale(
    pool: Annotated[str, typer.Option(help="Which pool: prefill, drafter or verifier.")],
    replicas: Annotated[int | None, typer.Option(min=0, help="How many replicas.")] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="As many as the load needs, or as configured.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the controller's log.")] = "dspark scale",
    url: Annotated[
        str | None, typer.Option(help="Control API; absent: the running stack's.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Ask the controller for a number of replicas; the pool follows within seconds."""
    from dspark.rpc.ask import ask_for_replicas

    if auto == (replicas is not None):
        raise ValueError("say either --replicas N or --auto")
    if url is not None:
        _scale_at(ControlApi(url), pool, replicas, reason)
        return
    record = require_running(state_folder(state_dir))
    limits = _limits(state_folder(state_dir), pool)
    if replicas is not None and limits is not None and not limits[0] <= replicas <= limits[1]:
        raise ValueError(
            f"pool {pool} may have {limits[0]} to {limits[1]} replicas (pools.{pool}.min_replicas "
            f"and max_replicas), not {replicas}"
        )
    previous = ask_for_replicas(
        record.controller, pool, replicas, author=getpass.getuser(), reason=reason,
        credentials=credentials_of(record.tls), timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    _say_wanted(pool, previous, replicas)


def _scale_at(api: ControlApi, pool: str, replicas: int | None, reason: str) -> None:
    path = f"/v1/pools/{pool}/replicas"
    previous = api.get(path)["wanted"]
    if replicas is None:
        api.delete(path, reason=reason)
    else:
        api.put(path, {"replicas": replicas, "reason": reason})
    _say_wanted(pool, previous, replicas)


def _say_wanted(pool: str, previous: int, replicas: int | None) -> None:
    wanted = "by its load" if replicas is None else f"{replicas} replicas"
    print(f"{pool}: {previous} -> {wanted} wanted")


def _collect(folder: Path) -> dict[str, Any]:
    from dspark.rpc.ask import fleet_snapshot

    record = read_record(folder)
    if record is None or record.supervisor() is None:
        return _not_running(folder, record)
    controller: dict[str, Any] = {
        "address": record.controller,
        "api": record.api,
        "reachable": True,
        "problem": "",
    }
    pools: list[dict[str, Any]] = []
    policies: list[dict[str, Any]] | None = None
    try:
        fleet = fleet_snapshot(
            record.controller, credentials=credentials_of(record.tls), timeout_s=_TIMEOUT_S
        )
        pools = describe_pools(fleet, record.pools)
        for pool in pools:
            if pool["role"] == Role.VERIFIER.value:
                addresses = [replica["metrics_address"] for replica in pool["replicas"]]
                pool["since_start"] = since_start(
                    filter(None, addresses), record.certificates.get("metrics")
                )
        controller["term"] = fleet.term
        policies = policies_of(record.api, record.certificates.get("api"))
    except ConnectionError as error:
        controller |= {"reachable": False, "problem": str(error), "term": None}
    return {
        "phase": record.phase,
        "problem": record.problem,
        "model": record.model,
        "state_dir": str(folder),
        "metrics": record.metrics,
        "gateway": record.gateway,
        "controller": controller,
        "processes": {name: asdict(child) for name, child in record.children.items()},
        "pools": pools,
        "policies": policies,
    }


def _not_running(folder: Path, record: StackRecord | None) -> dict[str, Any]:
    problem = "" if record is None else record.problem
    if record is not None and record.phase in {"ready", "starting", "stopping"}:
        problem = f"its supervisor (process {record.supervisor_pid}) is gone: run `dspark down`"
    return {
        "phase": "stopped" if record is None or record.phase != "failed" else "failed",
        "problem": problem or f"nothing runs here (looked in {folder})",
        "model": "",
        "state_dir": str(folder),
        "metrics": {},
        "gateway": "",
        "controller": {
            "address": "",
            "api": "",
            "reachable": False,
            "problem": "not running",
            "term": None,
        },
        "processes": {},
        "pools": [],
        "policies": None,
    }


def _render(state: dict[str, Any]) -> RenderableType:
    head = f"[bold]{state['phase']}[/]"
    if state["gateway"]:
        head += (
            f"  {state['gateway']}/v1  model {state['model']}  (logs: {state['state_dir']}/logs)"
        )
    lines: list[RenderableType] = [head]
    if state["controller"]["api"]:
        lines.append(f"  dashboard: {state['controller']['api']}/")
    if state["problem"]:
        lines.append(f"  {state['problem']}")
    for name, child in state["processes"].items():
        restarts = f", restarted {child['restarts']} times" if child["restarts"] else ""
        lines.append(f"  {name}: pid {child['pid']}{'' if child['alive'] else ' (dead)'}{restarts}")
    if state["processes"] and not state["controller"]["reachable"]:
        lines.append(
            f"  {state['controller']['problem']}: replicas go on with their last budgets, then "
            "admit by their own curves; output is not affected"
        )
    if state["pools"]:
        lines += ["", pool_tables(state["pools"])]
    if state["policies"] is not None:
        lines.append(escape(policies_line(state["policies"])))
    return Group(*lines)


def _limits(folder: Path, pool: str) -> tuple[int, int] | None:
    """Return the configured bounds of a pool, or None for one that is not of the file."""
    try:
        system = json.loads((folder / "system.json").read_text())
    except FileNotFoundError:
        return None
    for entry in system["pools"].values():
        if entry["settings"]["pool"] == pool:
            return entry["min_replicas"], entry["max_replicas"]
    return None
