"""Changes: an audit trail of policies, from which the policy in force follows at any time.

A pool's policies are layers.  A change without a time to live replaces them all; one with it lies
on top until its time is over, and what is below returns; so does a canary, for a share of the
replicas.  Each change keeps the layers before and
after it, so that undoing it needs nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from dspark.core.ids import PoolName
from dspark.core.policy import DEFAULT_POLICY, Policy

MAX_LAYERS = 8
"""Policies with a time to live that may lie on one another."""


class Action(Enum):
    """What a change did."""

    SET = "set"
    CLEAR = "clear"
    ROLLBACK = "rollback"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A policy, and until when.

    Attributes:
        number: The change that made it.
        policy: What was asked.
        author: Who asked.
        reason: Why.
        until_unix_s: When it ends; None: never by itself.
    """

    number: int
    policy: Policy
    author: str
    reason: str
    until_unix_s: float | None = None


Layers = tuple[Layer, ...]
"""Of one pool, the one in force last; each ends before the one below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the audit trail.

    Attributes:
        number: Grows with every change of any pool.
        pool: Whose policy.
        action: What was done.
        author: Who did it.
        reason: Why.
        unix_s: When.
        ttl_s: Life of what was set; None: no end.
        undoes: The change that a rollback undid.
        before: Layers before it.
        after: Layers after it.
    """

    number: int
    pool: PoolName
    action: Action
    author: str
    reason: str
    unix_s: float
    ttl_s: float | None = None
    undoes: int | None = None
    before: Layers = ()
    after: Layers = ()

    @property
    def policy(self) -> Policy:
        """What was in force after it: for canaries, where there are any."""
        return self.after[-1].policy if self.after else DEFAULT_POLICY


def alive(layers: Layers, unix_s: float) -> Layers:
    """Return the layers that have not ended."""
    return tuple(
        layer for layer in layers if layer.until_unix_s is None or layer.until_unix_s > unix_s
    )


def policy_of(layers: Layers) -> Policy:
    """Return the policy in force of layers that are alive, for all replicas but canaries."""
    whole = [layer.policy for layer in layers if layer.policy.canary_share is None]
    return whole[-1] if whole else DEFAULT_POLICY


def canary_of(layers: Layers) -> Policy | None:
    """Return the policy of the canaries; None where there are none."""
    return layers[-1].policy if layers and layers[-1].policy.canary_share is not None else None


def put(layers: Layers, layer: Layer) -> Layers:
    """Lay a policy on top of those that are alive.

    A canary lies on top of what is in force, in place of another canary, also without an end; any
    other policy ends it.

    Raises:
        ValueError: More would lie on one another than anybody can follow.
    """
    layers = tuple(old for old in layers if old.policy.canary_share is None)
    if layer.policy.canary_share is not None:
        return (*layers, layer)
    until = layer.until_unix_s
    if until is None:
        return (layer,)
    # One that ends before the new one would never be seen again.
    kept = [old for old in layers if old.until_unix_s is None or old.until_unix_s > until]
    if len(kept) >= MAX_LAYERS:
        raise ValueError(
            f"{len(kept)} policies with a time to live lie on one another already: "
            "clear the pool's policy, or give this one a longer life"
        )
    return (*kept, layer)


def last_to_undo(changes: Sequence[Change]) -> Change | None:
    """Return the newest change that somebody made and nobody undid, or None.

    Args:
        changes: Of one pool, oldest first.
    """
    undone = {change.undoes for change in changes}
    for change in reversed(changes):
        if change.action in {Action.SET, Action.CLEAR} and change.number not in undone:
            return change
    return None
