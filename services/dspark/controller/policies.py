"""Policies: what operators of the service asked of each pool, with its audit trail and its undo."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dspark.controller.store import MAX_CHANGES, Store
from dspark.core.changes import (
    Action,
    Change,
    Layer,
    Layers,
    alive,
    canary_of,
    last_to_undo,
    policy_of,
    put,
)
from dspark.core.ids import PoolName
from dspark.core.policy import Policy

CONTROLLER = "controller"
"""Author of what nobody asked for: the end of a time to live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Who asks for a change, why, and under which condition.

    Attributes:
        author: Who.
        reason: Why.
        unix_s: When.
        expected: Version of the pool's policy that the asker read; None: whatever it is.
        dry_run: Only say what would happen.
    """

    author: str
    reason: str
    unix_s: float
    expected: int | None = None
    dry_run: bool = False


class LostRace(ValueError):
    """Somebody changed the policy since it was read."""


class Conflict(ValueError):
    """The change makes no sense in the present state."""


class Policies:
    """Every pool's policy; a change is in the store before it is in force."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self._newest: dict[PoolName, Change] = {}

    def load(self) -> None:
        """Read the store again: after a takeover it holds what another leader decided."""
        self._changes = deque(self._store.changes(), maxlen=MAX_CHANGES)
        self._newest = dict(self._store.newest_changes())

    def tell_store(self) -> None:
        """Write the history, and with it every policy, again."""
        trail = {change.number: change for change in (*self._newest.values(), *self._changes)}
        for _, change in sorted(trail.items()):
            self._store.append(change)

    def version(self, pool: PoolName) -> int:
        """Return the number of the pool's last change; 0 where there was none."""
        newest = self._newest.get(pool)
        return 0 if newest is None else newest.number

    def layers(self, pool: PoolName, unix_s: float) -> Layers:
        """Return the pool's policies that have not ended, the one in force last."""
        newest = self._newest.get(pool)
        return () if newest is None else alive(newest.after, unix_s)

    def in_force(self, unix_s: float) -> Mapping[PoolName, Policy]:
        """Return the policy of every pool that ever had one."""
        return {pool: policy_of(self.layers(pool, unix_s)) for pool in self._newest}

    def canaries(self, unix_s: float) -> Mapping[PoolName, Policy]:
        """Return the canaries' policy of every pool that has any."""
        found = {pool: canary_of(self.layers(pool, unix_s)) for pool in self._newest}
        return {pool: policy for pool, policy in found.items() if policy is not None}

    def history(self, pool: PoolName | None = None) -> Iterator[Change]:
        """Return changes, newest first."""
        return (change for change in reversed(self._changes) if pool in {None, change.pool})

    def set(
        self,
        pool: PoolName,
        policy: Policy,
        ask: Ask,
        *,
        ttl_s: float | None = None,
    ) -> Change:
        """Put a policy in force, for ``ttl_s`` or for good, and return the change.

        Raises:
            LostRace: The pool's version is not the expected one.
            Conflict: Too many policies with a time to live lie on one another.
        """
        before = self._before(pool, ask)
        layer = Layer(
            number=self._next_number(),
            policy=policy,
            author=ask.author,
            reason=ask.reason,
            until_unix_s=None if ttl_s is None else ask.unix_s + ttl_s,
        )
        try:
            after = put(before, layer)
        except ValueError as error:
            raise Conflict(str(error)) from None
        change = Change(
            number=layer.number, pool=pool, action=Action.SET, author=ask.author,
            reason=ask.reason, unix_s=ask.unix_s, ttl_s=ttl_s, before=before, after=after,
        )  # fmt: skip
        return self._record(change, dry_run=ask.dry_run)

    def clear(self, pool: PoolName, ask: Ask) -> Change:
        """Return to the default policy.

        Raises:
            LostRace: The pool's version is not the expected one.
        """
        before = self._before(pool, ask)
        change = Change(
            number=self._next_number(), pool=pool, action=Action.CLEAR, author=ask.author,
            reason=ask.reason, unix_s=ask.unix_s, before=before,
        )  # fmt: skip
        return self._record(change, dry_run=ask.dry_run)

    def roll_back(self, pool: PoolName, ask: Ask, *, number: int | None = None) -> Change:
        """Return to the policy before a change: the last one that nobody undid, or ``number``.

        What has ended since then stays ended.

        Raises:
            LostRace: The pool's version is not the expected one.
            Conflict: There is no such change to undo.
        """
        before = self._before(pool, ask)
        changes = list(self.history(pool))[::-1]
        if number is None:
            undone = last_to_undo(changes)
        else:
            undone = next((change for change in changes if change.number == number), None)
        if undone is None:
            which = "change to undo" if number is None else f"change {number}"
            raise Conflict(f"pool {pool} has no {which}")
        change = Change(
            number=self._next_number(), pool=pool, action=Action.ROLLBACK, author=ask.author,
            reason=ask.reason, unix_s=ask.unix_s, undoes=undone.number, before=before,
            after=alive(undone.before, ask.unix_s),
        )  # fmt: skip
        return self._record(change, dry_run=ask.dry_run)

    def expire(self, unix_s: float) -> list[Change]:
        """Write down the policies whose time has come, and return the changes."""
        changes = []
        for pool, newest in list(self._newest.items()):
            after = alive(newest.after, unix_s)
            if after == newest.after:
                continue
            ended = next(layer for layer in reversed(newest.after) if layer not in after)
            change = Change(
                number=self._next_number(), pool=pool, action=Action.EXPIRE, author=CONTROLLER,
                reason=f"the time of change {ended.number} is over: {ended.reason}",
                unix_s=unix_s, before=newest.after, after=after,
            )  # fmt: skip
            changes.append(self._record(change, dry_run=False))
        return changes

    def _before(self, pool: PoolName, ask: Ask) -> Layers:
        version = self.version(pool)
        if ask.expected is not None and ask.expected != version:
            raise LostRace(f"the policy of {pool} is at version {version}, not {ask.expected}")
        return self.layers(pool, ask.unix_s)

    def _next_number(self) -> int:
        return 1 + max((change.number for change in self._newest.values()), default=0)

    def _record(self, change: Change, *, dry_run: bool) -> Change:
        if not dry_run:
            self._store.append(change)
            self._changes.append(change)
            self._newest[change.pool] = change
        return change
