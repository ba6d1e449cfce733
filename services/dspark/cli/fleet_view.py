"""What people are told of the fleet: plain data for --json, and tables of the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from dspark.cli.counters import per_round
from dspark.core.budget import ALL, DISABLED, OFF, Budget
from dspark.core.fleet import Fleet, LoadReport, Member, Pool


def describe_pools(fleet: Fleet, serve: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry for each pool, with its replicas.

    Args:
        fleet: As the controller sees it.
        serve: Ray Serve's view by pool.
    """
    return [
        _describe_pool(pool, [m for m in fleet.members if m.replica.pool == pool.name], serve)
        for pool in fleet.pools
    ]


def _describe_pool(
    pool: Pool, members: Sequence[Member], serve: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    loads = [member.load for member in members if member.load is not None]
    return {
        "name": str(pool.name),
        "role": pool.role.value,
        "wanted_replicas": pool.wanted_replicas,
        "wanted_because": pool.wanted_because,
        "ready_replicas": pool.ready_replicas,
        "conditions": list(pool.conditions),
        "serve": dict(serve.get(pool.role.value, {})),
        "budget": None if pool.budget is None else _describe_budget(pool.budget),
        **_totals(loads),
        "replicas": [_describe_member(member) for member in members],
    }


def _describe_member(member: Member) -> dict[str, Any]:
    replica, load = member.replica, member.load
    return {
        "name": str(replica.name),
        "pid": replica.pid,
        "node": replica.node,
        "address": replica.address,
        "metrics_address": replica.metrics_address,
        "state": replica.state.value,
        "seconds_since_report": round(member.seconds_since_report, 2),
        "active_sessions": load.active_sessions if load else 0,
        "waiting_sessions": load.waiting_sessions if load else 0,
        "free_pages": load.free_pages if load else 0,
        "total_pages": load.total_pages if load else 0,
        "busy_share": round(load.busy_share, 3) if load else 0.0,
        "budget_epoch": load.budget_epoch if load else None,
        "connected_drafters": load.connected_drafters if load else 0,
        "draft_outcomes": dict(load.draft_outcomes) if load else {},
        "guard": {
            "checks": load.guard_checks if load else 0,
            "violations": load.guard_violations if load else 0,
            "tripped": load.guard_tripped if load else False,
        },
    }


def _describe_budget(budget: Budget) -> dict[str, Any]:
    return {
        "term": budget.term,
        "epoch": budget.epoch,
        "reason": budget.reason,
        "curve_version": budget.curve_version,
        "table": [
            {
                "max_context_tokens": bucket.max_context_tokens,
                "draft_tokens": [_entry(entry) for entry in bucket.draft_tokens],
            }
            for bucket in budget.buckets
        ],
    }


def _entry(entry: int) -> int | str:
    return {ALL: "all", OFF: "off", DISABLED: "disabled"}.get(entry, entry)


def _totals(loads: Sequence[LoadReport]) -> dict[str, Any]:
    """Sums of the newest reports; None where nothing was done in their window."""
    rounds = sum(load.drafted_steps for load in loads)
    accepted = sum(load.accepted_draft_tokens for load in loads)
    moved: Counter[str] = Counter()
    for load in loads:
        moved.update(load.wire_bytes)
    tokens_per_s = sum(load.committed_tokens / load.window_s for load in loads if load.window_s)
    return {
        "tokens_per_s": round(tokens_per_s, 1),
        "accepted_length": round(1 + accepted / rounds, 3) if rounds else None,
        "bytes_per_session_round": per_round(moved, rounds),
    }


def pool_tables(pools: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the pools, and below them the replicas, as tables."""
    summary = Table(
        "pool", "ready", "tokens/s", "tau now", "tau", "bytes a round", "budget", box=None
    )
    replicas = Table("replica", "state", "pid", "address", "sessions", "pages free", box=None)
    notes = []
    for pool in pools:
        budget, ever = pool["budget"], pool.get("since_start") or {}
        moved = pool["bytes_per_session_round"] or ever.get("bytes_per_session_round") or {}
        summary.add_row(
            pool["name"],
            f"{pool['ready_replicas']}/{pool['wanted_replicas']}",
            f"{pool['tokens_per_s']:.0f}" if pool["role"] == "verifier" else "",
            _length(pool["accepted_length"]),
            _length(ever.get("accepted_length")),
            " ".join(f"{kind} {count:.0f}" for kind, count in moved.items()),
            "" if budget is None else f"epoch {budget['term']}.{budget['epoch']}",
        )
        notes += [f"  {pool['name']}: {condition}" for condition in pool["conditions"]]
        if budget is not None and budget["reason"]:
            notes.append(f"  {pool['name']}: budget: {budget['reason']}")
        checks = sum(replica["guard"]["checks"] for replica in pool["replicas"])
        if checks:
            violations = sum(replica["guard"]["violations"] for replica in pool["replicas"])
            notes.append(f"  {pool['name']}: guard: {checks} checks, {violations} violations")
        for replica in pool["replicas"]:
            replicas.add_row(
                replica["name"],
                replica["state"],
                str(replica["pid"]),
                replica["address"],
                f"{replica['active_sessions']}+{replica['waiting_sessions']}",
                f"{replica['free_pages']}/{replica['total_pages']}",
            )
    return Group(summary, "", replicas, *notes)


def _length(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
