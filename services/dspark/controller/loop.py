"""The controller's state and its tick: observe, plan, publish."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from dspark.config.controller import ControllerSettings
from dspark.controller.registry import Refused, Registry, ReportOutcome
from dspark.controller.settling import Settling
from dspark.controller.snapshot import snapshot
from dspark.controller.statistics import Statistics
from dspark.controller.store import Store, Wish
from dspark.core.budget import Budget
from dspark.core.fleet import Fleet, LoadReport, Replica, ReplicaState, Role
from dspark.core.ids import Epoch, Incarnation, PoolName, ReplicaName
from dspark.core.plan import Observation, Plan, plan
from dspark.core.policy import PlanSettings, Rules
from dspark.rpc.watch import Latest
from dspark.telemetry import metrics

log = logging.getLogger(__name__)

_COALESCE_S = 0.02  # registrations that come together make one snapshot
_REMARK_S = 60.0  # a refusal is shown for this long


class UnknownPool(ValueError):
    """Nobody knows the pool, nor what its replicas would be."""


class Controller:
    """Everything the controller knows.

    Used from one event loop; time arrives as ``now_s``, seconds of a monotonic clock.
    """

    def __init__(self, settings: ControllerSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self.term = store.next_term()
        self._registry = Registry(lease_s=settings.lease_s)
        self._wishes: dict[PoolName, Wish] = dict(store.wishes())
        self._statistics = Statistics(settings.reservoir_size)
        self._remarks: dict[PoolName, tuple[str, float]] = {}
        self._left: Counter[PoolName] = Counter()
        self._plan = Plan()
        self._wake = asyncio.Event()
        self._changed = True
        self._version = 0
        self._settling = Settling(settings.settle_s if self.term > 1 else 0.0)
        self.fleet: Latest[Fleet] = Latest()
        self.epoch: Latest[Epoch] = Latest()
        for wish in self._wishes.values():
            self._registry.know_pool(wish.pool, wish.role)
        for name in settings.initial_replicas:
            with contextlib.suppress(ValueError):  # an own name: known when a replica comes
                self._registry.know_pool(PoolName(name), Role(name))

    # --- what replicas say ------------------------------------------------------------------

    def register(self, replica: Replica, now_s: float) -> None:
        """Let a replica in; raise Refused, naming the field, where it does not fit."""
        before = self._registry.find(replica.name)
        try:
            new = self._registry.register(replica, now_s)
        except Refused as refusal:
            log.warning("refused %s: %s", replica.name, refusal)
            self._remark(replica, f"{refusal}", now_s)
            raise
        if new:
            if before is not None:
                self._forget(before, "replaced by a new process")
            log.info("registered %s in %s at %s", replica.name, replica.pool, replica.address)
        for misfit, problem in self._registry.evict_misfits():
            self._remark(misfit, problem, now_s)
            self._forget(misfit, problem)
        self._statistics.curves_changed()
        self._touch()

    def unregister(self, name: ReplicaName, incarnation: Incarnation) -> None:
        """Let a replica go that has drained."""
        replica = self._registry.unregister(name, incarnation)
        if replica is not None:
            self._left[replica.pool] += 1
            self._forget(replica, "unregistered")

    def report(self, report: LoadReport, now_s: float) -> ReportOutcome:
        """Take a report in; the outcome is counted."""
        outcome, problem = self._registry.report(report, now_s)
        metrics.REPORTS.labels(outcome.value).inc()
        if outcome is ReportOutcome.ABSURD:
            log.warning("absurd report of %s: %s", report.replica, problem)
        if outcome is ReportOutcome.ACCEPTED:
            replica = self._registry.find(report.replica)
            assert replica is not None
            if report.survivals and replica.role is Role.VERIFIER:
                self._statistics.add(replica, report.survivals)
            if report.budget_epoch is not None and report.budget_epoch > self._plan.epoch:
                # Of a predecessor that forgot its term: ours must be newer to be taken.
                self._plan = replace(self._plan, epoch=report.budget_epoch)
            self._changed = True
        return outcome

    # --- what people ask --------------------------------------------------------------------

    def set_wanted(
        self, pool: PoolName, replicas: int, *, author: str, reason: str, unix_s: float
    ) -> int:
        """Keep a wish and return what was wanted before.

        Raises:
            UnknownPool: No replica of it was ever seen and its name is not that of a role.
        """
        role = self._registry.roles.get(pool)
        if role is None:
            try:
                role = Role(pool)
            except ValueError:
                metrics.CONTROL_CHANGES.labels("person", "refused").inc()
                known = ", ".join(sorted(self._registry.roles)) or "none yet"
                raise UnknownPool(f"no pool is called {pool!r}; known pools: {known}") from None
        previous = self._plan.wanted.get(pool, self._wanted_by_wish().get(pool, 0))
        wish = Wish(
            pool=pool, role=role, replicas=replicas, author=author, reason=reason, unix_s=unix_s
        )
        self._store.save(wish)
        self._wishes[pool] = wish
        self._registry.know_pool(pool, role)
        metrics.CONTROL_CHANGES.labels("person", "applied").inc()
        log.info("wanted in %s: %d -> %d by %s: %s", pool, previous, replicas, author, reason)
        self._touch()
        return previous

    # --- what everybody is told -------------------------------------------------------------

    def budget_of(self, pool: PoolName, replica: ReplicaName) -> Budget | None:
        """Return the newest budget of a replica's class; of any class for a mere spectator."""
        known = self._registry.find(replica)
        if known is not None:
            version = "" if known.curve is None else known.curve.version
            return self._plan.budget(pool, version)
        return next(iter(self._plan.budgets(pool)), None)

    def tick(self, now_s: float) -> Plan:
        """Observe, plan and publish; return the plan."""
        for replica in self._registry.expire(now_s):
            self._forget(replica, "lease expired")
        members = self._registry.members(now_s)
        previous = self._plan
        self._plan = plan(
            Observation(
                term=self.term,
                members=members,
                roles=self._registry.roles,
                wishes=self._wanted_by_wish(),
                left=self._left,
                remarks=self._fresh_remarks(now_s),
            ),
            curves=self._statistics.curves(self._registry.replicas()),
            acceptance=self._statistics.acceptance(),
            previous=previous,
            settings=_plan_settings(self._settings),
            now_s=now_s,
        )
        self._left = Counter()
        for reason in self._plan.reasons:
            log.info("budget %s", reason)
        self._publish_budgets(previous)
        if (
            self._changed
            or self._plan.epoch != previous.epoch
            or self._plan.conditions != previous.conditions
            or self._plan.wanted != previous.wanted
        ):
            self._changed = self._settling.waits(members, self._plan.wanted, now_s)
            if not self._changed:
                self._publish_fleet(now_s)
        return self._plan

    async def run(self) -> None:
        """Tick for ever, at once after a change of the fleet."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tick(loop.time())
            except Exception:  # a bad plan must not end the fleet's view of itself
                log.exception("tick failed; the previous plan stays")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._settings.tick_s)
                await asyncio.sleep(_COALESCE_S)
            self._wake.clear()

    # --- inside -----------------------------------------------------------------------------

    def _touch(self) -> None:
        self._changed = True
        self._wake.set()

    def _forget(self, replica: Replica, why: str) -> None:
        log.info("gone %s of %s: %s", replica.name, replica.pool, why)
        self._statistics.depart(replica)
        self._touch()

    def _remark(self, replica: Replica, problem: str, now_s: float) -> None:
        text = f"IncompatibleReplica: {replica.name} was refused: {problem}"
        self._remarks[replica.pool] = (text, now_s)
        self._touch()

    def _fresh_remarks(self, now_s: float) -> Mapping[PoolName, list[str]]:
        self._remarks = {
            pool: remark for pool, remark in self._remarks.items() if now_s - remark[1] < _REMARK_S
        }
        return {pool: [text] for pool, (text, _) in self._remarks.items()}

    def _wanted_by_wish(self) -> dict[PoolName, int]:
        initial = {PoolName(name): count for name, count in self._settings.initial_replicas.items()}
        return initial | {pool: wish.replicas for pool, wish in self._wishes.items()}

    def _publish_budgets(self, previous: Plan) -> None:
        for (pool, version), issued in self._plan.issued.items():
            before = previous.budget(pool, version)
            if before is not issued.budget:
                renewed = before is not None and before.buckets == issued.budget.buckets
                metrics.BUDGET_PUBLISH.labels("renewed" if renewed else "changed").inc()
        if self._plan.epoch != previous.epoch:
            self.epoch.set(self._plan.epoch)

    def _publish_fleet(self, now_s: float) -> None:
        self._version += 1
        fleet = snapshot(
            self._plan,
            self._registry.members(now_s),
            self._registry.roles,
            term=self.term,
            version=self._version,
        )
        for pool in fleet.pools:
            draining = sum(
                member.replica.state is ReplicaState.DRAINING
                for member in fleet.members
                if member.replica.pool == pool.name
            )
            for state, count in (
                ("desired", pool.wanted_replicas),
                ("ready", pool.ready_replicas),
                ("draining", draining),
            ):
                metrics.POOL_REPLICAS.labels(pool.name, state).set(count)
        self.fleet.set(fleet)


def _plan_settings(settings: ControllerSettings) -> PlanSettings:
    return PlanSettings(
        ttl_s=settings.budget_ttl_s,
        renew_s=settings.budget_ttl_s * 0.3,
        dwell_s=settings.dwell_s,
        min_samples=settings.min_samples,
        max_sessions=settings.max_sessions,
        max_cohorts=settings.max_cohorts,
        rules=Rules(activation_sessions=settings.activation_sessions, off_gain=settings.off_gain),
    )
