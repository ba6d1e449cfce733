"""Memory: what plans are made of that took time to learn, kept over a restart.

Curves, the last tables and the last sizes of pools: a controller that starts again goes on from
them until it knows better.  Written on a change and not at every tick, and never waited for: a
store that is lost is told later.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from dspark.controller.store import Store, StoreLost, Superseded
from dspark.core.budget import ContextBucket
from dspark.core.curve import Curve
from dspark.core.ids import PoolName
from dspark.core.issue import BudgetKey, Issued, resumed
from dspark.core.plan import Plan
from dspark.core.scaling import Scaled

log = logging.getLogger(__name__)

MAX_CLASSES = 64
"""Classes of replicas whose tables are kept, the newest."""

PERIOD_S = 1.0
"""Between writes."""

_RETRY_S = 10.0  # after a write that the store did not take


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The planned table of one class of verifiers.

    Attributes:
        pool: Its pool.
        curve_version: Its curve.
        buckets: Before any policy.
        reason: Why it was so.
    """

    pool: PoolName
    curve_version: str
    buckets: tuple[ContextBucket, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Everything that is kept.

    Attributes:
        curves: By pool; a class is (pool, version of the curve).
        tables: The last one of each class.
        sizes: Replicas wanted last, by pool.
    """

    curves: tuple[tuple[PoolName, Curve], ...] = ()
    tables: tuple[Table, ...] = ()
    sizes: Mapping[PoolName, int] = field(default_factory=dict)


_JSON = TypeAdapter(Learned)


class Memory:
    """Used from one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables: dict[BudgetKey, Table] = {}
        self._kept = Learned()
        self._not_before_s = 0.0

    def load(self) -> Learned:
        """Read the store; what cannot be read (of another version, say) is nothing."""
        text = self._store.learned()
        try:
            self._kept = Learned() if text is None else _JSON.validate_json(text)
        except ValidationError as error:
            log.warning("what an earlier controller learned cannot be read: %s", error)
            self._kept = Learned()
        self._tables = {(table.pool, table.curve_version): table for table in self._kept.tables}
        return self._kept

    def tell_store(self) -> None:
        """Write everything again."""
        self._store.keep_learned(_JSON.dump_json(self._kept).decode())

    def curves(self) -> Mapping[BudgetKey, Curve]:
        """Return the curve of each class."""
        return {(pool, curve.version): curve for pool, curve in self._kept.curves}

    def sizes(self) -> Mapping[PoolName, Scaled]:
        """Return the last sizes."""
        return {
            pool: Scaled(wanted=count, why="as before the restart")
            for pool, count in self._kept.sizes.items()
        }

    def issued(self) -> Mapping[BudgetKey, Issued]:
        """Return each class's last table as a budget that is to be issued again."""
        return {
            key: resumed(key, table.buckets, table.reason) for key, table in self._tables.items()
        }

    def keep(self, plan: Plan, curves: Mapping[BudgetKey, Curve], now_s: float) -> None:
        """Keep what ``plan`` and ``curves`` have that is new."""
        for (pool, version), issued in plan.issued.items():
            known = self._tables.pop((pool, version), None)
            if known is None or known.buckets != issued.planned:
                known = Table(
                    pool=pool, curve_version=version, buckets=issued.planned,
                    reason=issued.planned_reason,
                )  # fmt: skip
            self._tables[pool, version] = known
        while len(self._tables) > MAX_CLASSES:
            del self._tables[next(iter(self._tables))]
        learned = Learned(
            curves=tuple((pool, curve) for (pool, _), curve in curves.items()),
            tables=tuple(self._tables.values()),
            sizes=plan.wanted,
        )
        if now_s < self._not_before_s or learned == self._kept:
            return
        try:
            self._store.keep_learned(_JSON.dump_json(learned).decode())
        except (StoreLost, Superseded) as error:
            log.info("what was learned is not kept yet: %s", error)
            self._not_before_s = now_s + _RETRY_S
            return
        self._kept, self._not_before_s = learned, now_s + PERIOD_S
