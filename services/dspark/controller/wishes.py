"""Wishes: how many replicas somebody asked for in each pool."""

from collections.abc import Mapping

from dspark.controller.store import Store, Wish
from dspark.core.fleet import Role
from dspark.core.ids import PoolName


class Wishes:
    """The configured numbers, and over them what people asked for, which survives a restart."""

    def __init__(self, store: Store, initial: Mapping[str, int]) -> None:
        self._store = store
        self._initial = {PoolName(name): count for name, count in initial.items()}
        self._asked: dict[PoolName, Wish] = {}

    def load(self) -> None:
        """Read the store again."""
        self._asked = dict(self._store.wishes())

    def tell_store(self) -> None:
        """Write every wish again."""
        for wish in self._asked.values():
            self._store.save(wish)

    def keep(self, wish: Wish) -> None:
        """Keep a wish; it is in the store when this returns."""
        self._store.save(wish)
        self._asked[wish.pool] = wish

    def forget(self, pool: PoolName) -> None:
        """Take a wish back; the store knows when this returns."""
        if pool in self._asked:
            self._store.drop_wish(pool)
            del self._asked[pool]

    @property
    def initial(self) -> Mapping[PoolName, int]:
        """The configured numbers."""
        return self._initial

    def of(self, pool: PoolName) -> Wish | None:
        """Return what somebody asked for in a pool."""
        return self._asked.get(pool)

    def asked(self) -> dict[PoolName, int]:
        """Return the replicas that people asked for, by pool."""
        return {pool: wish.replicas for pool, wish in self._asked.items()}

    def roles(self) -> dict[PoolName, Role]:
        """Return the pools wished for with their roles, as far as they are known."""
        roles = {role.value: role for role in Role}
        known = {pool: roles[pool] for pool in self._initial if pool in roles}
        return known | {pool: wish.role for pool, wish in self._asked.items()}
