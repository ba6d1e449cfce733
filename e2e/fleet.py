"""A fleet of real processes (controller, prefill, drafters, verifiers) and a client of it.

The client is what the gateway has behind HTTP: its view of the fleet, its gRPC, its failover.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from dspark.config.model import ModelSettings
from dspark.core.fleet import Member
from dspark.core.generation import Generation, GenerationStats
from dspark.gateway.fleet import FleetView
from dspark.gateway.routed import RoutedGeneration
from dspark.gateway.sessions import Sessions
from dspark.gateway.verifiers import GrpcVerifiers
from e2e.conftest import free_port
from e2e.replica_process import ReplicaProcess

CONTROLLER = {
    "tick_s": 0.1,
    "report_interval_s": 0.1,
    "lease_s": 3.0,
    "budget_ttl_s": 1.5,
    "dwell_s": 0.3,
    "settle_s": 1.0,
    "activation_sessions": 2,
    # Draft also where it does not pay: these tests are about exactness.
    "off_gain": 1000.0,
}
"""The scheduler is on, and quick to change its mind."""

DRAFTING = {"deadline_floor_s": 2.0, "reconnect_s": 0.05}


@dataclass(frozen=True, slots=True)
class Output:
    """What one generation gave."""

    tokens: tuple[int, ...]
    stats: GenerationStats


class Fleet:
    """What is up, and a way to generate on it."""

    def __init__(self, model: ModelSettings) -> None:
        self.model = model
        self._port = free_port()
        self._processes: dict[str, ReplicaProcess] = {}
        self._view = FleetView(f"127.0.0.1:{self._port}", watcher="test", file=None)
        self._verifiers = GrpcVerifiers()
        self._sessions = Sessions(
            fleet=self._view.fleet,
            verifiers=self._verifiers,
            failover_attempts=10,
            wait_for_verifier_s=60.0,
        )

    async def up(
        self,
        role: str,
        name: str | None = None,
        *,
        model: ModelSettings | None = None,
        wrong: str | None = None,
        **settings: object,
    ) -> None:
        """Start a process and wait until it serves and, for a replica, the fleet lists it."""
        chosen: dict[str, object] = {}
        if role == "controller":
            chosen = {**CONTROLLER, "port": self._port}
        elif role == "verifier":
            chosen = {"drain_s": 0.0, "drafting": DRAFTING}
        else:
            chosen = {"drain_s": 0.0}
        process = ReplicaProcess(
            role,
            name or f"{role}-1",
            chosen | settings,
            model=None if role == "controller" else model or self.model,
            controller=f"127.0.0.1:{self._port}",
            wrong=wrong,
        )
        try:
            await process.ready()
        except RuntimeError:
            process.kill()
            raise
        self._processes[process.name] = process
        if role != "controller":
            await self.until(lambda: self._lists(process.pid), f"{process.name} is listed")

    def kill(self, name: str) -> None:
        """Lose a process as a crash would."""
        self._processes.pop(name).kill()

    async def down(self, name: str) -> None:
        """End a process in order, and wait until the fleet lists it no more."""
        process = self._processes.pop(name)
        await process.stop()

        async def gone() -> bool:
            return not await self._lists(process.pid)

        await self.until(gone, f"{name} is gone")

    @property
    def num_pids(self) -> int:
        return len({process.pid for process in self._processes.values()})

    def members(self) -> Sequence[Member]:
        fleet = self._view.fleet.value
        return () if fleet is None else fleet.members

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(60.0):
                while not await holds():  # noqa: ASYNC110 - other processes make it true
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within a minute: {what}") from None

    async def _lists(self, pid: int | None) -> bool:
        return any(member.replica.pid == pid for member in self.members())

    async def until_drafted(self, probe: Generation) -> None:
        """Wait until a generation is drafted for."""

        async def drafted() -> bool:
            return (await self.generate_one(probe)).stats.drafted_steps > 0

        await self.until(drafted, "drafts are used")

    async def metric(self, replica: str, name: str) -> float:
        """Sum of a metric's samples, from the replica's own endpoint."""
        (member,) = [m for m in self.members() if m.replica.name == replica]
        async with httpx.AsyncClient(trust_env=False) as client:
            page = await client.get(f"http://{member.replica.metrics_address}/metrics")
        lines = [line for line in page.text.splitlines() if line.startswith(name)]
        assert lines, f"{replica} has no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def generate_one(self, generation: Generation) -> Output:
        tokens: list[int] = []
        stats: GenerationStats | None = None
        routed = RoutedGeneration(generation=generation, model=self.model.name, timeout_s=120.0)
        async for batch in self._sessions.generate(routed):
            tokens.extend(batch.token_ids)
            stats = batch.stats or stats
        assert stats is not None
        return Output(tuple(tokens), stats)

    async def generate(self, generations: Sequence[Generation], *, together: int) -> list[Output]:
        """Run generations in their order, ``together`` at a time."""
        gate = asyncio.Semaphore(together)

        async def one(generation: Generation) -> Output:
            async with gate:
                return await self.generate_one(generation)

        return await asyncio.gather(*(one(generation) for generation in generations))

    async def open(self) -> None:
        await self.up("controller", "controller")
        self._view.start()

    async def close(self) -> None:
        await self._view.close()
        await self._verifiers.close()
        # The controller last: replicas leave the fleet in order.
        for name in sorted(self._processes, key=lambda name: name == "controller"):
            await self._processes.pop(name).stop()


@asynccontextmanager
async def fleet(model: ModelSettings) -> AsyncIterator[Fleet]:
    """A fleet with a controller and no replica yet; every process is gone at the end."""
    made = Fleet(model)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def totals(outputs: Sequence[Output]) -> tuple[int, int, int]:
    """Drafted, verified and accepted tokens of all outputs."""
    stats = [output.stats for output in outputs]
    return (
        sum(each.drafted_tokens for each in stats),
        sum(each.verified_draft_tokens for each in stats),
        sum(each.accepted_draft_tokens for each in stats),
    )
