"""The trend: what every verifier pool did over the last minutes, in a ring."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator

from dspark.controller.api import view
from dspark.controller.api.answers import Entry, SampleShape, TrendShape
from dspark.controller.loop import Controller
from dspark.core.fleet import Member, Role
from dspark.core.ids import PoolName

log = logging.getLogger(__name__)

PERIOD_S = 2.0
KEPT = 1200
"""Samples of all pools together: 40 minutes of one pool."""


class Trend:
    """Samples a controller while it leads.

    Used from one event loop.

    Args:
        kept: Samples that are remembered.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[SampleShape] = deque(maxlen=kept)
        self._number = 0

    def since(self, number: int) -> TrendShape:
        """Return the samples after ``number``; all of them where it is of a former process."""
        after = number if number <= self._number else 0
        return TrendShape(
            period_s=PERIOD_S,
            newest=self._number,
            samples=[sample for sample in self._ring if sample.number > after],
        )

    def sample(self, controller: Controller, *, now_s: float, unix_s: float) -> None:
        """Take one sample of each verifier pool."""
        members = controller.registry.members(now_s)
        for pool, role in sorted(controller.registry.roles.items()):
            if role is Role.VERIFIER:
                mine = [member for member in members if member.replica.pool == pool]
                self._ring.append(self._of(controller, pool, mine, unix_s))

    async def run(self, controller: Controller) -> None:
        """Sample for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.sample(controller, now_s=loop.time(), unix_s=time.time())
            except Exception:  # a gap in a picture must not end the controller
                log.exception("the trend misses a sample")
            await asyncio.sleep(PERIOD_S)

    def _of(
        self, controller: Controller, pool: PoolName, members: list[Member], unix_s: float
    ) -> SampleShape:
        self._number += 1
        loads = [member.load for member in members if member.load is not None]
        seen = view.pool_shape(controller, pool, Role.VERIFIER, members, unix_s)
        steps = sum(load.steps for load in loads)
        return SampleShape(
            number=self._number,
            unix_s=unix_s,
            pool=pool,
            entries=dict(_entries(controller, pool, unix_s)),
            accepted_length=seen.accepted_length,
            verified_tokens_per_step=seen.verified_tokens_per_step,
            tokens_per_s=seen.tokens_per_s,
            active_sessions=sum(load.active_sessions for load in loads),
            waiting_sessions=sum(load.waiting_sessions for load in loads),
            batch_tokens=sum(load.batch_tokens for load in loads) / steps if steps else None,
            step_ms=1000 * sum(load.step_s for load in loads) / steps if steps else None,
        )


def _entries(controller: Controller, pool: PoolName, unix_s: float) -> Iterator[tuple[str, Entry]]:
    for why in view.budget(controller, pool, unix_s=unix_s).classes:
        yield why.curve_version + (" (canaries)" if why.canaries else ""), why.entry
