"""Settling: after a restart, who was there before needs a moment to register again.

Until then the fleet is kept back: whoever watches keeps what it knows, instead of believing that
everybody is gone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from dspark.core.fleet import Member, ReplicaState, Role
from dspark.core.ids import PoolName


class Settling:
    """Over once what is wanted is ready, or its time has passed; then it stays over."""

    def __init__(self, settle_s: float) -> None:
        self._left_s = settle_s
        self._until_s: float | None = None
        self._over = settle_s <= 0

    @property
    def over(self) -> bool:
        """Whether everybody has had the time to come back."""
        return self._over

    def waits(
        self, members: Sequence[Member], wanted: Mapping[PoolName, int], now_s: float
    ) -> bool:
        """Whether to keep the fleet back; the time counts from the first question."""
        if self._over:
            return False
        if self._until_s is None:
            self._until_s = now_s + self._left_s
        present = [m.replica for m in members if m.replica.state is ReplicaState.READY]
        ready = Counter(replica.pool for replica in present)
        complete = any(replica.role is Role.VERIFIER for replica in present) and all(
            ready[pool] >= count for pool, count in wanted.items()
        )
        self._over = complete or now_s >= self._until_s
        return not self._over
