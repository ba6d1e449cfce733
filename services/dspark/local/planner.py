"""The controller's planner beside engines in this process: reports in, budgets out, no wire."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from dspark.config.controller import ControllerSettings
from dspark.controller.loop import Controller
from dspark.controller.store import MemoryStore
from dspark.core.budget import Budget
from dspark.core.cohorts import Cohorts
from dspark.core.fleet import Fleet, LoadReport, Replica, Role

log = logging.getLogger(__name__)

_NEVER_S = 1e9
"""Nobody here can be lost, so no lease ends."""


class LocalPlanner:
    """Ticks a controller in a thread of its own, until ``stop``.

    Args:
        replicas: One verifier, and its drafter.
        report: What the verifier did since the last call.
        offer: Takes each budget of the verifier.
        max_sessions: In a step.
        max_cohorts: 1 where the verifier never alternates.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        report: Callable[[], LoadReport],
        offer: Callable[[Budget], object],
        max_sessions: int,
        max_cohorts: Cohorts,
    ) -> None:
        self._verifier = next(one for one in replicas if one.role is Role.VERIFIER)
        self._report = report
        self._offer = offer
        settings = ControllerSettings(
            lease_s=_NEVER_S, max_sessions=max_sessions, max_cohorts=max_cohorts
        )
        self._tick_s = settings.tick_s
        self._controller = Controller(settings, MemoryStore())
        self._fleet = Fleet(term=self._controller.term, version=0, members=())
        for replica in replicas:
            self._controller.register(replica, time.monotonic())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-planner", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def fleet(self) -> Fleet:
        """Return the replicas with the newest report."""
        return self._fleet

    def _run(self) -> None:
        while not self._ended.wait(self._tick_s):
            try:
                self._tick(time.monotonic())
            except Exception:  # without a newer budget the verifier admits by its own curve
                log.exception("a tick of the planner failed; the last budget stays until it ends")

    def _tick(self, now_s: float) -> None:
        controller = self._controller
        controller.report(self._report(), now_s)
        controller.tick(now_s, time.time())
        budget = controller.budget_of(self._verifier.pool, self._verifier.name)
        if budget is not None:
            self._offer(budget)
        self._fleet = Fleet(
            term=controller.term,
            version=self._fleet.version + 1,
            members=tuple(controller.registry.members(now_s)),
        )
