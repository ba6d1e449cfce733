"""``dspark top``: the fleet, live, in the terminal."""

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from dspark.cli.budget_view import describe_policy, draw
from dspark.cli.control_api import open_api
from dspark.cli.options import Json, StateDir, state_folder

_REFRESH_S = 1.0


def top(
    once: Annotated[bool, typer.Option("--once", help="Show once and end.")] = False,
    as_json: Json = False,
    url: Annotated[
        str | None, typer.Option(help="Control API; absent: of the running stack.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Watch pools, budgets, accepted length by position, idle time and tokens/s until Ctrl-C.

    --json prints the control API's fleet once.
    """
    api = open_api(url, state_folder(state_dir))
    if as_json:
        print(json.dumps(api.get("/v1/fleet"), indent=1))
        return
    console = Console(highlight=False)
    if once:
        console.print(frame(api.get("/v1/fleet")))
        return
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            try:
                live.update(frame(api.get("/v1/fleet")), refresh=True)
            except ConnectionError as error:  # it may come back: output is not affected
                live.update(f"{error}", refresh=True)
            time.sleep(_REFRESH_S)


def frame(fleet: Mapping[str, Any]) -> RenderableType:
    """Return one picture of the fleet."""
    pools = Table(
        "pool", "ready", "tokens/s", "tau", "tau by position", "verified a step", "bubble",
        "policy", box=None,
    )  # fmt: skip
    replicas = Table("replica", "state", "sessions", "tokens/s", "bubble", "pages free", box=None)
    notes: list[RenderableType] = []
    for pool in fleet["pools"]:
        survival = " ".join(f"{value:.2f}" for value in pool["survival"])
        pools.add_row(
            pool["name"],
            f"{pool['ready_replicas']}/{pool['wanted_replicas']}",
            f"{pool['tokens_per_s']:.0f}" if pool["policy"] else "",
            _number(pool["accepted_length"], ".2f"),
            f"{survival} {draw(pool['survival'])}" if pool["survival"] else "",
            _number(pool["verified_tokens_per_step"], ".1f"),
            _bubble(pool["busy_share"]),
            describe_policy(pool["policy"]) if pool["policy"] else "",
        )
        notes += [f"  {pool['name']}: {text}" for text in pool["conditions"]]
        if pool["budget"]:
            notes.append(f"  {pool['name']}: budget: {pool['budget']}")
        for replica in pool["replicas"]:
            replicas.add_row(
                replica["name"],
                replica["state"],
                f"{replica['active_sessions']}+{replica['waiting_sessions']}",
                f"{replica['tokens_per_s']:.0f}",
                _bubble(replica["busy_share"]),
                f"{replica['free_pages']}/{replica['total_pages']}",
            )
    return Group(f"[bold]term {fleet['term']}[/]", pools, "", replicas, "", *notes)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _bubble(busy_share: float | None) -> str:
    """Share of the time in which no step ran."""
    return "" if busy_share is None else f"{max(1 - busy_share, 0):.0%}"
