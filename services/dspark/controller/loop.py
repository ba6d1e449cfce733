"""The controller's state and its tick: observe, plan, publish."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from dspark.config.controller import ControllerSettings
from dspark.controller.events import Events, conditions_changed
from dspark.controller.memory import Memory
from dspark.controller.plan_settings import plan_settings, scaling_settings
from dspark.controller.policies import Ask, Conflict, LostRace, Policies
from dspark.controller.registry import Refused, Registry, ReportOutcome, UnknownPool
from dspark.controller.settling import Settling
from dspark.controller.snapshot import count_replicas, snapshot
from dspark.controller.statistics import Statistics
from dspark.controller.store import Store, StoreLost, Superseded, Wish
from dspark.controller.wishes import Wishes
from dspark.core.budget import Budget
from dspark.core.changes import Change
from dspark.core.fleet import Fleet, LoadReport, Replica, Role
from dspark.core.ids import Epoch, Incarnation, PoolName, ReplicaName, Term
from dspark.core.plan import Observation, Plan, plan
from dspark.core.policy import Policy
from dspark.core.wanted import Asked
from dspark.rpc.watch import Latest
from dspark.telemetry import metrics

log = logging.getLogger(__name__)

_COALESCE_S = 0.02  # registrations that come together make one snapshot
_REMARK_S = 60.0  # a refusal is shown for this long


class Controller:
    """Everything the controller knows.

    Used from one event loop; time arrives as ``now_s``, seconds of a monotonic clock.

    Args:
        settings: How to plan, and for how long things are believed.
        store: What survives this process.
        leading: False for a standby, which only reads until ``take_over``.

    Raises:
        StoreLost: The store does not answer; a standby does not ask it.
    """

    def __init__(self, settings: ControllerSettings, store: Store, *, leading: bool = True) -> None:
        self.settings = settings
        self.plan_settings = plan_settings(settings)
        self._scaling = scaling_settings(settings)
        self._store = store
        self.term = Term(0)
        self.registry = Registry(lease_s=settings.lease_s)
        self.wishes = Wishes(store, settings.initial_replicas)
        self.policies = Policies(store)
        self.events = Events()
        self.statistics = Statistics(settings.reservoir_size)
        self.memory = Memory(store)
        self._remarks: dict[PoolName, tuple[str, float]] = {}
        self._left: Counter[PoolName] = Counter()
        self.plan = Plan()
        self._wake = asyncio.Event()
        self._changed = True
        self._version = 0
        self._settling = Settling(0.0)
        self.fleet: Latest[Fleet] = Latest()
        self.epoch: Latest[Epoch] = Latest()
        if leading:
            self.take_over()

    @property
    def leading(self) -> bool:
        """Whether budgets and wishes are ours to give."""
        return self.term > 0

    def leader(self) -> Mapping[str, str] | None:
        """Ask the store who leads and where it is reached."""
        return self._store.leader()

    def take_over(self) -> None:
        """Lead from here on: under a new term, with what the store knows, or knew once."""
        if self._store.forgot():
            self.tell_store()
        else:
            self.reload()
            self.term = self._store.next_term()
            self.memory.load()
            self.statistics.remember(self.memory.curves())
            self.plan = replace(self.plan, sizes=self.memory.sizes())
        self._settling = Settling(self.settings.settle_s if self.term > 1 else 0.0)

    def reload(self) -> None:
        """Read the store again."""
        self.wishes.load()
        self.policies.load()
        for pool, role in self.wishes.roles().items():
            self.registry.know_pool(pool, role)
        for pool in self.policies.in_force(0.0):
            self.registry.know_pool(pool, Role.VERIFIER)

    def tell_store(self) -> None:
        """Write everything into a store that forgot it, under a new term."""
        self.term = self._store.next_term(above=self.term)
        self.wishes.tell_store()
        self.policies.tell_store()
        self.memory.tell_store()

    # --- what replicas say ------------------------------------------------------------------

    def register(self, replica: Replica, now_s: float) -> None:
        """Let a replica in; raise Refused, naming the field, where it does not fit."""
        before = self.registry.find(replica.name)
        try:
            new = self.registry.register(replica, now_s)
        except Refused as refusal:
            log.warning("refused %s: %s", replica.name, refusal)
            self._remark(replica, f"{refusal}", now_s)
            raise
        if new:
            if before is not None:
                self._forget(before, "replaced by a new process")
            log.info("registered %s in %s at %s", replica.name, replica.pool, replica.address)
        for misfit, problem in self.registry.evict_misfits():
            self._remark(misfit, problem, now_s)
            self._forget(misfit, problem)
        self.statistics.curves_changed()
        self._touch()

    def unregister(self, name: ReplicaName, incarnation: Incarnation) -> None:
        """Let a replica go that has drained."""
        replica = self.registry.unregister(name, incarnation)
        if replica is not None:
            self._left[replica.pool] += 1
            self._forget(replica, "unregistered")

    def report(self, report: LoadReport, now_s: float) -> ReportOutcome:
        """Take a report in; the outcome is counted."""
        outcome, problem = self.registry.report(report, now_s)
        metrics.REPORTS.labels(outcome.value).inc()
        if outcome is ReportOutcome.ABSURD:
            log.warning("absurd report of %s: %s", report.replica, problem)
        if outcome is ReportOutcome.ACCEPTED:
            replica = self.registry.find(report.replica)
            assert replica is not None
            if report.survivals and replica.role is Role.VERIFIER:
                self.statistics.add(replica, report.survivals)
            if report.judged_by_position:
                self.statistics.add_judged(replica.pool, report)
            if report.budget_epoch is not None and report.budget_epoch > self.plan.epoch:
                # Of a predecessor that forgot its term: ours must be newer to be taken.
                self.plan = replace(self.plan, epoch=report.budget_epoch)
            if report.budget_term is not None and report.budget_term > self.term:
                self._outgrow(report.budget_term)
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
        role, previous = self._role_of(pool), self._wanted_now(pool)
        wish = Wish(
            pool=pool, role=role, replicas=replicas, author=author, reason=reason, unix_s=unix_s
        )
        self.wishes.keep(wish)
        self.registry.know_pool(pool, role)
        metrics.CONTROL_CHANGES.labels("person", "applied").inc()
        self._tell_wish(pool, f"wanted {previous} -> {replicas} by {author}: {reason}")
        return previous

    def release_wanted(self, pool: PoolName, *, author: str, reason: str) -> int:
        """Take a wish back, so that the load decides again, and return what was wanted before.

        Raises:
            UnknownPool: No replica of it was ever seen and its name is not that of a role.
        """
        self._role_of(pool)
        previous = self._wanted_now(pool)
        self.wishes.forget(pool)
        self._tell_wish(pool, f"wanted {previous} -> by its load by {author}: {reason}")
        return previous

    def set_policy(
        self, pool: PoolName, policy: Policy, ask: Ask, *, ttl_s: float | None = None
    ) -> Change:
        """Put a policy in force; see ``Policies.set``, and ``_decide`` for what it raises."""
        return self._decide(pool, ask, lambda: self.policies.set(pool, policy, ask, ttl_s=ttl_s))

    def clear_policy(self, pool: PoolName, ask: Ask) -> Change:
        """Return to the default policy; see ``Policies.clear``."""
        return self._decide(pool, ask, lambda: self.policies.clear(pool, ask))

    def roll_back_policy(self, pool: PoolName, ask: Ask, *, number: int | None = None) -> Change:
        """Undo a change; see ``Policies.roll_back``."""
        return self._decide(pool, ask, lambda: self.policies.roll_back(pool, ask, number=number))

    def verifier_pool(self, name: str) -> PoolName:
        """Return the name as that of a known verifier pool.

        Raises:
            UnknownPool: There is none of that name.
            Conflict: It is a pool of another role, which has no budget.
        """
        pool = PoolName(name)
        role = self.registry.roles.get(pool)
        if role is None:
            known = ", ".join(
                sorted(pool for pool, role in self.registry.roles.items() if role is Role.VERIFIER)
            )
            raise UnknownPool(f"no pool is called {name!r}; verifier pools: {known or 'none yet'}")
        if role is not Role.VERIFIER:
            raise Conflict(f"{name} is a {role.value} pool: only verifier pools have a budget")
        return pool

    # --- what everybody is told -------------------------------------------------------------

    def budget_of(self, pool: PoolName, replica: ReplicaName) -> Budget | None:
        """Return the newest budget of a replica's class; of any class for a mere spectator."""
        known = self.registry.find(replica)
        if known is not None:
            version = "" if known.curve is None else known.curve.version
            return self.plan.budget(pool, version, replica)
        return next(iter(self.plan.budgets(pool)), None)

    def tick(self, now_s: float, unix_s: float) -> Plan:
        """Observe, plan and publish; return the plan.

        Args:
            now_s: A monotonic clock.
            unix_s: The wall clock, for what has to end at a time that outlives this process.
        """
        self._expire_policies(unix_s)
        for replica in self.registry.expire(now_s):
            self._forget(replica, "lease expired")
        members = self.registry.members(now_s)
        previous = self.plan
        curves = self.statistics.curves(self.registry.replicas())
        self.plan = plan(
            Observation(
                term=self.term,
                members=members,
                roles=self.registry.roles,
                asked=self._asked(),
                remarks=self._fresh_remarks(now_s),
                policies=self.policies.in_force(unix_s),
                canaries=self.policies.canaries(unix_s),
                resumed=self.memory.issued(),
            ),
            curves=curves,
            acceptance=self.statistics.acceptance(),
            previous=previous,
            settings=self.plan_settings,
            now_s=now_s,
        )
        self._left = Counter()
        if self._settling.over:
            self.memory.keep(self.plan, curves, now_s)
        for name, size in self.plan.sizes.items():
            before = previous.sizes.get(name)
            if name in self._scaling and before is not None and before.wanted != size.wanted:
                self._tell_wish(name, f"wanted {before.wanted} -> {size.wanted}: {size.why}")
        for pool, reason in self.plan.reasons:
            log.info("budget %s: %s", pool, reason)
            self.events.publish("budget", pool, reason)
        for name, text in conditions_changed(previous.conditions, self.plan.conditions):
            self.events.publish("conditions", name, text)
        self._publish_budgets(previous)
        if (
            self._changed
            or self.plan.epoch != previous.epoch
            or self.plan.conditions != previous.conditions
            or self.plan.wanted != previous.wanted
        ):
            self._changed = self._settling.waits(members, self.plan.wanted, now_s)
            if not self._changed:
                self._publish_fleet(now_s)
        return self.plan

    async def run(self) -> None:
        """Tick for ever, at once after a change of the fleet."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tick(loop.time(), time.time())
            except Exception:  # a bad plan must not end the fleet's view of itself
                log.exception("tick failed; the previous plan stays")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.settings.tick_s)
                await asyncio.sleep(_COALESCE_S)
            self._wake.clear()

    # --- inside -----------------------------------------------------------------------------

    def _role_of(self, pool: PoolName) -> Role:
        """Return a pool's role; one without a replica yet may be called by it."""
        role = self.registry.roles.get(pool)
        if role is not None:
            return role
        try:
            return Role(pool)
        except ValueError:
            metrics.CONTROL_CHANGES.labels("person", "refused").inc()
            known = ", ".join(sorted(self.registry.roles)) or "none yet"
            raise UnknownPool(f"no pool is called {pool!r}; known pools: {known}") from None

    def _wanted_now(self, pool: PoolName) -> int:
        asked = dict(self.wishes.initial) | self.wishes.asked()
        return self.plan.wanted.get(pool, asked.get(pool, 0))

    def _asked(self) -> Asked:
        fixed = {
            pool: count for pool, count in self.wishes.initial.items() if pool not in self._scaling
        }
        return Asked(
            wishes=fixed | self.wishes.asked(),
            scaling=self._scaling,
            start=self.wishes.initial,
            left=self._left,
            settling=not self._settling.over,
        )

    def _tell_wish(self, pool: PoolName, text: str) -> None:
        log.info("%s: %s", pool, text)
        self.events.publish("replicas", pool, text)
        self._touch()

    def _decide(self, pool: PoolName, ask: Ask, make: Callable[[], Change]) -> Change:
        """Make a change and count what became of it.

        Raises:
            UnknownPool: No such pool.
            Conflict: The pool has no budget, or the change makes no sense now.
            LostRace: Somebody was faster.
        """
        try:
            self.verifier_pool(pool)
            change = make()
        except (UnknownPool, Conflict, LostRace):
            metrics.CONTROL_CHANGES.labels("person", "refused").inc()
            raise
        metrics.CONTROL_CHANGES.labels("person", "dry_run" if ask.dry_run else "applied").inc()
        if not ask.dry_run:
            self._tell(change)
        return change

    def _tell(self, change: Change) -> None:
        text = (
            f"change {change.number}, {change.action.value} by {change.author}: {change.policy} "
            f"({change.reason})"
        )
        log.info("policy of %s: %s", change.pool, text)
        self.events.publish("policy", change.pool, text)
        self._touch()

    def _expire_policies(self, unix_s: float) -> None:
        try:
            changes = self.policies.expire(unix_s)
        except (StoreLost, Superseded) as error:
            # They have ended all the same; it is written down when the store is back.
            log.warning("the end of a policy is not written down yet: %s", error)
            return
        for change in changes:
            metrics.CONTROL_CHANGES.labels("controller", "applied").inc()
            self._tell(change)

    def _outgrow(self, term: Term) -> None:
        """Take a term above one that a replica holds: it would refuse ours."""
        log.warning("a replica holds a budget of term %d, ours is %d", term, self.term)
        with contextlib.suppress(StoreLost):  # until the next report
            self.term = self._store.next_term(above=term)

    def _touch(self) -> None:
        self._changed = True
        self._wake.set()

    def _forget(self, replica: Replica, why: str) -> None:
        log.info("gone %s of %s: %s", replica.name, replica.pool, why)
        self.statistics.depart(replica)
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

    def _publish_budgets(self, previous: Plan) -> None:
        for (pool, version), issued in self.plan.issued.items():
            before = previous.budget(pool, version)
            if before is not issued.budget:
                renewed = before is not None and before.buckets == issued.budget.buckets
                metrics.BUDGET_PUBLISH.labels("renewed" if renewed else "changed").inc()
        if self.plan.epoch != previous.epoch:
            self.epoch.set(self.plan.epoch)

    def _publish_fleet(self, now_s: float) -> None:
        self._version += 1
        fleet = snapshot(
            self.plan,
            self.registry.members(now_s),
            self.registry.roles,
            term=self.term,
            version=self._version,
        )
        count_replicas(fleet)
        self.fleet.set(fleet)
