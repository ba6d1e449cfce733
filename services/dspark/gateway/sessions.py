"""Streams: each one runs on a verifier, and goes on elsewhere when that one is lost."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from dspark.core.fleet import Fleet, Member
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import ReplicaName
from dspark.core.routing import choose_verifier
from dspark.core.session import FinishReason
from dspark.gateway.errors import timed_out
from dspark.gateway.failover import Failover
from dspark.gateway.routed import RoutedGeneration, TokenBatch
from dspark.gateway.stats import merge
from dspark.gateway.verifiers import VerifierLost, VerifierRefused, Verifiers
from dspark.rpc.watch import Latest
from dspark.telemetry import metrics

log = logging.getLogger(__name__)

_RETRY_S = 0.5
"""Before a verifier that failed is asked again, another one is looked for this long."""


class Sessions:
    """Runs generations on the fleet's verifiers.

    Args:
        fleet: As last heard.
        verifiers: The way to them.
        failover_attempts: Verifiers tried for one stream.
        wait_for_verifier_s: How long a stream that lost its verifier looks for another one.
    """

    def __init__(
        self,
        *,
        fleet: Latest[Fleet],
        verifiers: Verifiers,
        failover_attempts: int,
        wait_for_verifier_s: float,
    ) -> None:
        self._fleet = fleet
        self._verifiers = verifiers
        self._failover_attempts = failover_attempts
        self._wait_for_verifier_s = wait_for_verifier_s
        self._in_flight: Counter[ReplicaName] = Counter()

    @property
    def ready(self) -> bool:
        """Whether any verifier takes new work."""
        fleet = self._fleet.value
        return fleet is not None and choose_verifier(fleet.members) is not None

    async def generate(self, routed: RoutedGeneration) -> AsyncGenerator[TokenBatch, None]:
        """Yield the tokens of one generation, whoever runs it; closing it cancels it.

        Raises:
            ApiError: Nobody can run it, or go on with it.
        """
        now_s = asyncio.get_running_loop().time
        deadline_s = now_s() + routed.timeout_s
        failover = Failover(
            attempts=self._failover_attempts,
            wait_s=self._wait_for_verifier_s,
            search_until_s=now_s(),
        )
        request_id = routed.generation.request_id
        committed = list(routed.generation.committed)
        # Counts of verifiers that were lost; the present one sends its own so far.
        earlier: GenerationStats | None = None
        stats: GenerationStats | None = None
        while True:
            member = await self._find(failover, routed.affinity_key, deadline_s)
            if member is None:
                late = now_s() >= deadline_s
                raise timed_out(routed.timeout_s) if late else failover.nobody()
            replica = member.replica
            before = len(committed)
            self._in_flight[replica.name] += 1
            try:
                attempt = self._verifiers.generate(
                    replica, _going_on(routed, committed), max(0.001, deadline_s - now_s())
                )
                async with aclosing(attempt) as batches:
                    async for batch in batches:
                        # Kept before it is passed on: the next verifier goes on after it.
                        committed.extend(batch.token_ids)
                        stats = merge(earlier, batch.stats)
                        yield TokenBatch(
                            token_ids=batch.token_ids,
                            finish=batch.finish,
                            stats=stats,
                            logprobs=batch.logprobs,
                            draft=batch.draft,
                        )
                        if batch.finish is not None:
                            return
                raise VerifierLost("ended", "the stream ended without a finish reason")
            except VerifierLost as error:
                earlier = stats
                finish = _finish(routed.generation, committed)
                if finish is not None:
                    yield TokenBatch(token_ids=(), finish=finish, stats=stats)
                    return
                failover.lost(replica, error, tokens=len(committed) - before, now_s=now_s())
                metrics.STREAM_MIGRATIONS.labels(error.cause).inc()
                log.warning(
                    "%s: lost %s after %d tokens (%s); looking for another verifier",
                    request_id, replica.name, len(committed), error,
                    extra={"request_id": request_id},
                )  # fmt: skip
            except VerifierRefused as error:
                failover.refused(replica, error)
            finally:
                self._in_flight[replica.name] -= 1

    async def _find(
        self, failover: Failover, affinity_key: str | None, deadline_s: float
    ) -> Member | None:
        """Choose a verifier, waiting for one as long as the stream's history allows."""
        member = self._choose(failover, affinity_key, again=False)
        if member is not None or not failover.waits:
            return member
        now_s = asyncio.get_running_loop().time
        until_s = min(failover.search_until_s, deadline_s)
        for again, limit_s in ((False, min(until_s, now_s() + _RETRY_S)), (True, until_s)):
            if now_s() < limit_s and member is None:
                member = await self._wait(failover, affinity_key, again=again, until_s=limit_s)
        return member

    async def _wait(
        self, failover: Failover, affinity_key: str | None, *, again: bool, until_s: float
    ) -> Member | None:
        try:
            async with asyncio.timeout_at(until_s):
                async for _ in self._fleet.watch():
                    member = self._choose(failover, affinity_key, again=again)
                    if member is not None:
                        return member
        except TimeoutError:
            pass
        return None

    def _choose(
        self, failover: Failover, affinity_key: str | None, *, again: bool
    ) -> Member | None:
        fleet = self._fleet.value
        if fleet is None:
            return None
        candidates = failover.candidates(fleet, again=again)
        name = choose_verifier(candidates, affinity_key=affinity_key, in_flight=self._in_flight)
        return next((m for m in candidates if m.replica.name == name), None)


def _going_on(routed: RoutedGeneration, committed: Sequence[int]) -> RoutedGeneration:
    """The same generation after the tokens that the client already has."""
    return replace(routed, generation=replace(routed.generation, committed=tuple(committed)))


def _finish(generation: Generation, committed: Sequence[int]) -> FinishReason | None:
    """Why nothing can follow ``committed``, or None: a verifier may die before saying so."""
    if committed and committed[-1] in generation.stop_tokens:
        return FinishReason.STOP
    if len(committed) >= generation.max_new_tokens:
        return FinishReason.LENGTH
    return None
