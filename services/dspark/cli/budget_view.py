"""What people are told of budgets: tables of the control API's answers."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

_BARS = "▁▂▃▄▅▆▇█"
_LONGEST = 60  # characters of a drawn curve


def describe_policy(policy: Mapping[str, Any]) -> str:
    """Return a policy in a few words."""
    words = [str(policy["mode"])]
    for field in (
        "draft_tokens", "floor", "cap", "activation_sessions", "min_tokens_per_s", "canary_share",
    ):  # fmt: skip
        if policy[field] is not None:
            words.append(f"{field.replace('_', ' ')} {policy[field]:g}")
    for each in policy["priority_weights"]:
        words.append(f"weight {each['weight']:g} of priority {each['priority']}")
    return ", ".join([*words, *(["shadow"] if policy["shadow"] else [])])


def policies_line(states: Sequence[Mapping[str, Any]]) -> str:
    """Return one line about the policies in force that are not the default.

    Args:
        states: Of ``GET /v1/pools/POOL/policy``.
    """
    said = [
        f"{state['pool']}: {describe_policy(state['policy'])} "
        f"(by {state['layers'][-1]['author']}: {state['layers'][-1]['reason']})"
        for state in states
        if state["layers"]
    ]
    if not said:
        return "policies: none, budgets are planned"
    return f"policies in force: {'; '.join(said)}"


def show_pool(state: Mapping[str, Any], *, now_unix_s: float) -> RenderableType:
    """Return a pool's policy, and for each class of replicas its budget with the reasons."""
    lines: list[RenderableType] = [
        f"[bold]{state['pool']}[/]: {describe_policy(state['policy'])} (version {state['version']})"
    ]
    for layer in reversed(state["layers"]):
        until = layer["until_unix_s"]
        end = "for good" if until is None else f"for {max(until - now_unix_s, 0):.0f} s more"
        lines.append(
            f"  change {layer['change']} by {layer['author']}, {end}: "
            f"{describe_policy(layer['policy'])} ({layer['reason']})"
        )
    for why in state["budget"]["classes"]:
        lines += ["", *_class_lines(why)]
    if not state["budget"]["classes"]:
        lines.append("  no replica, so no budget")
    return Group(*lines)


def _class_lines(why: Mapping[str, Any]) -> list[RenderableType]:
    name = why["curve_version"] or "without a curve"
    sent = "" if why["sent"] else " (shadow: not sent)"
    if why["canaries"]:
        sent += f" for canaries {', '.join(why['canaries'])}"
    lines: list[RenderableType] = [
        f"  class {name} {why['device']}: epoch {why['term']}.{why['epoch']}{sent}",
        f"    now {why['sessions']} sessions a step: {why['entry']} draft tokens; {why['binding']}",
        f"    {why['committed_rounds']} committed rounds; "
        f"a draft round takes {why['draft_round_ms']:.1f} ms",
    ]
    table = Table("context", "draft tokens by sessions in the step, from 1", box=None)
    for bucket in why["table"]:
        entries = " ".join(str(entry) for entry in bucket["draft_tokens"][:24])
        more = " ..." if len(bucket["draft_tokens"]) > 24 else ""
        limit = bucket["max_context_tokens"]
        table.add_row("any" if limit >= 2**31 - 1 else f"<= {limit}", entries + more)
    lines.append(table)
    if why["theta"]:
        values = [value for _, value in why["theta"]]
        lines.append(
            f"    Theta, {min(values):.0f} to {max(values):.0f} tokens/s over 0 to "
            f"{why['theta'][-1][0]} draft tokens (off {why['off_tokens_per_s']:.0f}):"
        )
        lines.append(f"    {draw(values)}")
    return lines


def draw(values: Sequence[float]) -> str:
    """Return a curve as a line of bars."""
    step = max(-(-len(values) // _LONGEST), 1)
    kept = [max(values[i : i + step]) for i in range(0, len(values), step)]
    low, high = min(kept), max(kept)
    span = (high - low) or 1.0
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1))] for value in kept)


def history_table(changes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the history, newest first."""
    table = Table("change", "when", "pool", "action", "policy after", "by", "reason", box=None)
    for change in changes:
        life = "" if change["ttl_s"] is None else f" for {change['ttl_s']:g} s"
        undone = "" if change["undoes"] is None else f" of {change['undoes']}"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change["unix_s"]))
        table.add_row(
            str(change["change"]), when, change["pool"], change["action"] + undone,
            describe_policy(change["policy"]) + life, change["author"], change["reason"],
        )  # fmt: skip
    return table


def outlook_table(outlooks: Mapping[str, Any]) -> RenderableType:
    """Return now and then side by side."""
    now, then = outlooks["now"], outlooks["supposed"]
    table = Table("", "now", "supposed", box=None)
    for label, key, form in (
        ("replicas", "replicas", "d"),
        ("sessions", "sessions", "d"),
        ("tokens/s", "tokens_per_s", ".0f"),
        ("tokens/s a user", "tokens_per_s_per_user", ".1f"),
        ("accepted length", "accepted_length", ".2f"),
    ):
        table.add_row(label, format(now[key], form), format(then[key], form))
    entries = [" ".join(map(str, outlook["verified_tokens_per_step"])) for outlook in (now, then)]
    table.add_row("draft tokens a step", *entries)
    kept = then["promise_kept"]
    if kept is not None:
        table.add_row("promise", "", "kept" if kept else "missed")
    return Group(table, f"{outlooks['gain']:+.1%} tokens/s, by curves and recorded statistics")
