"""``dspark budget``: see why a budget is as it is, bound it, and take that back."""

import json
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from dspark.cli.budget_view import describe_policy, history_table, outlook_table, show_pool
from dspark.cli.control_api import TOKEN_VARIABLE, ControlApi, open_api
from dspark.cli.options import Json, StateDir, state_folder

app = typer.Typer(
    help="See, bound and take back verification budgets.",
    no_args_is_help=True,
    epilog=f"The token of a controller that wants one is read from {TOKEN_VARIABLE}.",
)

Url = Annotated[str | None, typer.Option(help="Control API; absent: of the running stack.")]
Pool = Annotated[str, typer.Option(help="Verifier pool.")]
AnyPool = Annotated[str | None, typer.Option(help="Verifier pool; absent: all of them.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]
ModeName = Annotated[
    Literal["auto", "pinned", "off", "verify-all"] | None,
    typer.Option(help="Default: pinned with --draft-tokens, else auto."),
]
DraftTokens = Annotated[
    int | None, typer.Option(min=0, help="Pin: a step verifies so many draft tokens.")
]
Floor = Annotated[int | None, typer.Option(min=0, help="At least so many draft tokens a step.")]
Cap = Annotated[int | None, typer.Option(min=0, help="At most so many draft tokens a step.")]
Activation = Annotated[
    int | None, typer.Option(min=1, help="Below so many sessions everything is verified.")
]
Promise = Annotated[
    float | None, typer.Option(min=0, help="Tokens a second that each session is promised.")
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight", help="PRIORITY=WEIGHT: what drafts of such requests count; may be repeated."
    ),
]
CanaryShare = Annotated[
    float | None, typer.Option(help="Only for this share of the replicas, like 0.1.")
]
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@app.command()
def show(
    pool: AnyPool = None, as_json: Json = False, url: Url = None, state_dir: StateDir = None
) -> None:
    """Show the policy in force and the budget, with why it is so.

    JSON: {"pools": [{"pool", "version", "policy": {"mode", "cap", ...}, "layers", "budget"}]}.
    """
    api = open_api(url, state_folder(state_dir))
    pools = [_state(api, name) for name in _verifier_pools(api, pool)]
    if as_json:
        print(json.dumps({"pools": pools}, indent=1))
        return
    console = Console(highlight=False)
    for state in pools:
        console.print(show_pool(state, now_unix_s=time.time()), "")
    if not pools:
        console.print("no verifier pool is known yet")


@app.command(name="set")
def set_(
    pool: Pool,
    reason: Reason,
    mode: ModeName = None,
    draft_tokens: DraftTokens = None,
    floor: Floor = None,
    cap: Cap = None,
    activation_sessions: Activation = None,
    min_tokens_per_s: Promise = None,
    weight: Weights = None,
    canary_share: CanaryShare = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Compute and show the budget, do not send it.")
    ] = False,
    ttl: Annotated[
        str | None, typer.Option(help="Life, like 10s, 5m, 2h; then the previous one returns.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    state_dir: StateDir = None,
) -> None:
    """Put a policy in force in place of the present one; what is not given is not bounded."""
    policy = _policy(
        mode, draft_tokens=draft_tokens, floor=floor, cap=cap,
        activation_sessions=activation_sessions, min_tokens_per_s=min_tokens_per_s,
        priority_weights=read_weights(weight), canary_share=canary_share, shadow=shadow or None,
    )  # fmt: skip
    life = {} if ttl is None else {"ttl_s": seconds(ttl)}
    api = open_api(url, state_folder(state_dir))
    changed = api.change(
        "PUT", pool, body={"policy": policy, "reason": reason, **life}, dry_run=dry_run
    )
    _say(changed, as_json)


@app.command()
def clear(
    pool: Pool,
    reason: Reason = "dspark budget clear",
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    state_dir: StateDir = None,
) -> None:
    """Return to the default policy: planned, without bounds."""
    api = open_api(url, state_folder(state_dir))
    _say(api.change("DELETE", pool, reason=reason, dry_run=dry_run), as_json)


@app.command()
def rollback(
    pool: Pool,
    change: Annotated[
        int | None, typer.Option(min=1, help="The change to undo; absent: the last one.")
    ] = None,
    reason: Reason = "dspark budget rollback",
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    state_dir: StateDir = None,
) -> None:
    """Return to the policy before a change; again, and it goes one change further."""
    api = open_api(url, state_folder(state_dir))
    body = {"reason": reason, **({} if change is None else {"change": change})}
    _say(api.change("POST", pool, path="/rollback", body=body, dry_run=dry_run), as_json)


@app.command()
def history(
    pool: AnyPool = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    as_json: Json = False,
    url: Url = None,
    state_dir: StateDir = None,
) -> None:
    """Show who changed which policy, when and why, newest first.

    JSON: {"changes": [{"change", "pool", "action", "policy", "author", "reason", ...}]}.
    """
    found = open_api(url, state_folder(state_dir)).get("/v1/changes", pool=pool, limit=limit)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        Console(highlight=False).print(history_table(found["changes"]))


@app.command()
def whatif(
    pool: Pool,
    mode: ModeName = None,
    draft_tokens: DraftTokens = None,
    floor: Floor = None,
    cap: Cap = None,
    activation_sessions: Activation = None,
    min_tokens_per_s: Promise = None,
    weight: Weights = None,
    canary_share: CanaryShare = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Of the pool.")] = None,
    sessions: Annotated[int | None, typer.Option(min=1, help="In the pool.")] = None,
    as_json: Json = False,
    url: Url = None,
    state_dir: StateDir = None,
) -> None:
    """Predict another policy, replica count or load; nothing is changed."""
    policy = _policy(
        mode, draft_tokens=draft_tokens, floor=floor, cap=cap,
        activation_sessions=activation_sessions, min_tokens_per_s=min_tokens_per_s,
        priority_weights=read_weights(weight), canary_share=canary_share,
    )  # fmt: skip
    given = {"replicas": replicas, "sessions": sessions, "policy": policy if policy else None}
    body = {key: value for key, value in given.items() if value is not None}
    found = open_api(url, state_folder(state_dir)).post(f"/v1/pools/{pool}/whatif", body)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        Console(highlight=False).print(outlook_table(found))


@app.command()
def watch(as_json: Json = False, url: Url = None, state_dir: StateDir = None) -> None:
    """Print what happens, as it happens, until Ctrl-C; --json prints one object a line."""
    for event in open_api(url, state_folder(state_dir)).events():
        if as_json:
            print(json.dumps(event), flush=True)
        else:
            print(f"{time.strftime('%H:%M:%S')} {event['pool']} {event['kind']}: {event['text']}",
                  flush=True)  # fmt: skip


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Author of what is changed with it.")],
    role: Annotated[Literal["viewer", "operator", "admin"], typer.Option()] = "viewer",
) -> None:
    """Make a token for the control API; only its digest goes into the configuration."""
    from dspark.controller.api.tokens import digest, new_token

    made = new_token()
    print(f"token (shown once): {made}")
    print("controller:\n  api_tokens:")
    print(f"    - {{name: {json.dumps(name)}, role: {role}, sha256: {digest(made)}}}")


def seconds(text: str) -> float:
    """Return "10s", "1.5m", "2h", "1d" or plain seconds as seconds.

    Raises:
        ValueError: It is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise ValueError(f"--ttl {text!r}: expected a duration like 10s, 5m, 2h or 1d")
    return float(match.group(1)) * _UNITS[match.group(2) or "s"]


def _policy(mode: str | None, **fields: object) -> dict[str, Any]:
    """Return what was given of a policy; empty where nothing was."""
    if mode is None and fields["draft_tokens"] is not None:
        mode = "pinned"
    return {key: value for key, value in {"mode": mode, **fields}.items() if value is not None}


def read_weights(words: Sequence[str] | None) -> list[dict[str, float]] | None:
    """Return ["10=0.5", "0=2"] as the API has it, by priority; None for none.

    Raises:
        ValueError: One is not PRIORITY=WEIGHT.
    """
    weights = []
    for word in words or ():
        match = re.fullmatch(r"(-?\d+)=(\d+(?:\.\d+)?)", word.strip())
        if match is None:
            raise ValueError(f"--weight {word!r}: expected PRIORITY=WEIGHT, like 10=0.5")
        weights.append({"priority": int(match.group(1)), "weight": float(match.group(2))})
    return sorted(weights, key=lambda each: each["priority"]) or None


def _verifier_pools(api: ControlApi, pool: str | None) -> list[str]:
    if pool is not None:
        return [pool]
    return [one["name"] for one in api.get("/v1/fleet")["pools"] if one["role"] == "verifier"]


def _state(api: ControlApi, pool: str) -> dict[str, Any]:
    state = api.get(f"/v1/pools/{pool}/policy")
    return {**state, "budget": api.get(f"/v1/pools/{pool}/budget")}


def _say(changed: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(changed, indent=1))
        return
    change = changed["change"]
    life = "" if change["ttl_s"] is None else f" for {change['ttl_s']:g} s"
    would = "would be " if changed["dry_run"] else ""
    undone = "" if change["undoes"] is None else f" (change {change['undoes']} is undone)"
    print(
        f"{change['pool']}: change {change['change']} {would}{describe_policy(change['policy'])}"
        f"{life}{undone}"
    )
