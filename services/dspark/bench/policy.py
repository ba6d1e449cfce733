"""Makes a running system verify what an arm says: a fixed one's drafts are all verified.

Requests alone cannot: they bound what is drafted, and the pool's budget rules what is verified.  So
while a fixed arm runs, its verifier pools are under a policy "verify-all", put there through the
control API and taken back afterwards; it ends by itself where the bench cannot take it back.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dspark.bench.arms import Arm
from dspark.core.budget import ALL, DISABLED
from dspark.core.fleet import Fleet, Role

_TTL_S = 3600.0
_APPLIED_S = 10.0
_UNCHANGED_S = 2.0
"""So long without a new epoch, and the budget planned is the same as verify-all."""
_POLL_S = 0.1


class PolicyApi(Protocol):
    """What is asked of the control API; ValueError where it refuses, ConnectionError if gone."""

    def change(
        self,
        method: str,
        pool: str,
        *,
        path: str = "",
        body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Change a pool's policy."""


class FixedPolicy:
    """Switches between "verify-all" and what was in force before."""

    def __init__(
        self,
        api: PolicyApi,
        snapshot: Callable[[], Fleet],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._snapshot = snapshot
        self._sleep = sleep
        self._clock = clock
        self._changes: dict[str, int] = {}

    def prepare(self, arm: Arm) -> None:
        """Put in force what ``arm`` needs, and wait until every verifier has it.

        Raises:
            ValueError: The control API refuses, or a verifier does not follow.
            ConnectionError: It does not answer.
        """
        if arm.fixed == bool(self._changes):
            return
        if not arm.fixed:
            self.restore()
            return
        verifiers = self._snapshot().ready(Role.VERIFIER)
        for pool in sorted({member.replica.pool for member in verifiers}):
            changed = self._api.change(
                "PUT",
                pool,
                body={
                    "policy": {"mode": "verify-all"},
                    "reason": "dspark bench: a fixed arm verifies all of its drafts",
                    "ttl_s": _TTL_S,
                },
            )
            self._changes[pool] = changed["change"]["change"]
        self._await(fixed=True)

    def restore(self) -> None:
        """Take back what was put in force; see ``prepare``."""
        before = _epochs(self._snapshot())
        for pool, change in list(self._changes.items()):
            self._api.change(
                "POST",
                pool,
                path="/rollback",
                body={"reason": "dspark bench: the fixed arm is done", "change": change},
            )
            del self._changes[pool]
        until_s = self._clock() + _UNCHANGED_S
        while _epochs(self._snapshot()) == before and self._clock() < until_s:
            self._sleep(_POLL_S)
        self._await(fixed=False)

    def _await(self, *, fixed: bool) -> None:
        until_s = self._clock() + _APPLIED_S
        while not _applied(self._snapshot(), fixed=fixed):
            if self._clock() > until_s:
                what = "verify-all" if fixed else "the policy before the bench"
                raise ValueError(f"the verifiers do not follow {what} after {_APPLIED_S:g} s")
            self._sleep(_POLL_S)


def _applied(fleet: Fleet, *, fixed: bool) -> bool:
    """Whether every verifier has a budget at least as new as its pool's, and that is as wanted."""
    budgets = {pool.name: pool.budget for pool in fleet.pools if pool.budget is not None}
    for member in fleet.ready(Role.VERIFIER):
        budget = budgets.get(member.replica.pool)
        if budget is None or member.load is None:
            return False
        if (member.load.budget_epoch or 0) < budget.epoch:
            return False
        entries = {entry for bucket in budget.buckets for entry in bucket.draft_tokens}
        if fixed and not entries <= {ALL, DISABLED}:
            return False
    return True


def _epochs(fleet: Fleet) -> list[int]:
    return [pool.budget.epoch for pool in fleet.pools if pool.budget is not None]
