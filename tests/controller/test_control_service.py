import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from grpc import aio

from dspark.config.controller import ControllerSettings
from dspark.config.endpoint import EndpointSettings
from dspark.controller.loop import Controller
from dspark.controller.open_store import open_store
from dspark.controller.service import SERVICE_NAME, ControlService, add_control_service
from dspark.core.budget import ALL
from dspark.core.fleet import Fleet, LoadReport, Replica, Role
from dspark.rpc.channel import open_channel
from dspark.rpc.server import RpcServer
from dspark.telemetry import metrics
from dspark.wire.budget import budget_from_wire
from dspark.wire.fleet import fleet_from_wire, load_report_to_wire, replica_to_wire
from dspark.wire.v1 import control_pb2, control_pb2_grpc
from tests.fleet_examples import COMPATIBILITY, a_curve, a_replica, a_report

T = TypeVar("T")

FAST = ControllerSettings(
    tick_s=0.05, report_interval_s=0.05, lease_s=0.5, budget_ttl_s=1.0, dwell_s=0.0, min_samples=4,
    reservoir_size=16, settle_s=0.3,
)  # fmt: skip
KNEE = a_curve({4: 0.010, 16: 0.040})


class Client:
    """A stub and the conversions that a replica would do."""

    def __init__(self, channel: aio.Channel) -> None:
        self.stub: control_pb2_grpc.ControlServiceAsyncStub = control_pb2_grpc.ControlServiceStub(
            channel
        )

    async def register(self, replica: Replica) -> control_pb2.RegisterResponse:
        request = control_pb2.RegisterRequest(replica=replica_to_wire(replica))
        return await self.stub.Register(request, timeout=20.0)

    async def report(self, *reports: LoadReport) -> None:
        async def messages() -> AsyncIterator[control_pb2.LoadReport]:
            for report in reports:
                yield load_report_to_wire(report)

        await self.stub.Report(messages(), timeout=20.0)

    async def fleet_when(self, wanted: Callable[[Fleet], bool]) -> Fleet:
        """Watch until a snapshot is as wanted."""
        watch = self.stub.WatchFleet(control_pb2.WatchFleetRequest(watcher="test"), timeout=30.0)
        async for message in watch:
            fleet = fleet_from_wire(message)
            if wanted(fleet):
                watch.cancel()
                return fleet
        raise AssertionError("the stream ended")

    async def want(self, pool: str, replicas: int) -> int:
        request = control_pb2.SetWantedReplicasRequest(
            pool=pool, replicas=replicas, author="ada", reason="a test"
        )
        return (await self.stub.SetWantedReplicas(request, timeout=20.0)).previous_replicas


@contextlib.asynccontextmanager
async def running(
    settings: ControllerSettings = FAST, store: str = "memory"
) -> AsyncIterator[Client]:
    """A controller behind real gRPC on a port of the system's choice."""
    with contextlib.closing(open_store(store)) as opened:
        controller = Controller(settings, opened)
        server = RpcServer(EndpointSettings(), [SERVICE_NAME])
        service = ControlService(controller, settings)
        server.add(lambda target: add_control_service(service, target))
        address = await server.start()
        ticking = asyncio.create_task(controller.run())
        channel = open_channel(address)
        try:
            yield Client(channel)
        finally:
            await channel.close()
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            await server.stop(0.0)


def stale_reports() -> float:
    labels = {"outcome": "stale"}
    return metrics.REGISTRY.get_sample_value("dspark_load_reports_total", labels) or 0.0


def names(fleet: Fleet) -> list[str]:
    return sorted(member.replica.name for member in fleet.members)


def wanted(fleet: Fleet) -> dict[str, int]:
    return {pool.name: pool.wanted_replicas for pool in fleet.pools}


async def test_a_registered_replica_is_told_its_lease_and_seen_by_all() -> None:
    async with running() as client:
        answer = await client.register(a_replica("v0"))
        assert answer.term >= 1
        assert answer.lease_seconds == 0.5
        fleet = await client.fleet_when(lambda fleet: names(fleet) == ["v0"])
        assert (fleet.term, fleet.members[0].replica) == (answer.term, a_replica("v0"))


async def test_a_budget_arrives_and_trims_once_enough_rounds_are_known() -> None:
    async with running() as client:
        await client.register(a_replica("v0", curve=KNEE))
        watch = client.stub.WatchBudget(
            control_pb2.WatchBudgetRequest(pool="verifier", replica="v0"), timeout=30.0
        )
        first = budget_from_wire(await anext(aiter(watch)))
        assert first.entry(sessions=4, mean_context_tokens=64) == ALL
        rounds = [(0.6, 0.3, 0.1)] * 8
        await client.report(a_report("v0", active=4, survivals=rounds, draft_round_s=0.001))
        held = first
        async for message in watch:
            budget = budget_from_wire(message)
            assert budget.newer_than(held)
            held = budget
            if budget.buckets != first.buckets:
                break
        watch.cancel()
        assert held.entry(sessions=4, mean_context_tokens=64) != ALL
        assert held.curve_version == "curve"


async def test_an_unchanged_budget_is_renewed_before_it_expires() -> None:
    async with running() as client:
        await client.register(a_replica("v0"))
        watch = client.stub.WatchBudget(
            control_pb2.WatchBudgetRequest(pool="verifier", replica="v0"), timeout=30.0
        )
        arrived = []
        async for budget in watch:
            arrived.append(budget)
            await client.report(a_report("v0"))
            if len(arrived) == 3:
                break
        watch.cancel()
        assert [one.epoch for one in arrived] == sorted({one.epoch for one in arrived})
        assert arrived[1].buckets == arrived[2].buckets, "renewed, not changed"


async def test_unlike_replicas_of_one_pool_get_budgets_of_their_own_curves() -> None:
    async with running() as client:
        for version in ("fast", "slow"):
            curve = a_curve({1: 1.0, 9: 2.0}, version=version)
            await client.register(a_replica(f"v-{version}", curve=curve))
        for version in ("slow", "fast"):
            request = control_pb2.WatchBudgetRequest(pool="verifier", replica=f"v-{version}")
            watch = client.stub.WatchBudget(request, timeout=30.0)
            assert (await anext(aiter(watch))).curve_version == version
            watch.cancel()


async def test_a_silent_replica_is_forgotten_and_has_to_register_again() -> None:
    async with running() as client:
        await client.register(a_replica("v0"))
        fleet = await client.fleet_when(lambda fleet: bool(fleet.pools) and not fleet.members)
        assert fleet.pools[0].conditions == ("ReplicasMissing: 0 of 1 are ready",)
        with pytest.raises(aio.AioRpcError) as caught:
            await client.report(a_report("v0"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "register again" in str(caught.value.details())


async def test_reports_keep_a_replica_and_show_in_the_fleet() -> None:
    async with running() as client:
        await client.register(a_replica("v0"))
        await client.report(a_report("v0", active=1), a_report("v0", active=5))
        # The first report may be published before the second one is in.
        await client.fleet_when(
            lambda fleet: any(m.load and m.load.active_sessions == 5 for m in fleet.members)
        )


async def test_a_replaced_process_is_dropped_and_counted() -> None:
    before = stale_reports()
    async with running() as client:
        await client.register(a_replica("v0", incarnation=1))
        await client.register(a_replica("v0", incarnation=2))
        await client.report(a_report("v0", incarnation=1, active=9), a_report("v0", incarnation=2))
        fleet = await client.fleet_when(lambda fleet: any(m.load for m in fleet.members))
        assert fleet.members[0].load == a_report("v0", incarnation=2)
    assert stale_reports() == before + 1


async def test_an_incompatible_drafter_is_refused_by_name_and_the_pool_says_so() -> None:
    async with running() as client:
        await client.register(a_replica("v0"))
        await client.register(a_replica("d0", Role.DRAFTER))
        foreign = replace(COMPATIBILITY, projection_id="other")
        with pytest.raises(aio.AioRpcError) as caught:
            await client.register(a_replica("d1", Role.DRAFTER, compatibility=foreign))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert str(caught.value.details()).startswith("projection_id: 'projection' in the fleet")
        fleet = await client.fleet_when(lambda f: any("d1" in str(p.conditions) for p in f.pools))
        assert names(fleet) == ["d0", "v0"]


@pytest.mark.parametrize(
    "replica", [a_replica(""), replace(a_replica("v0"), pool="")], ids=["name", "pool"]
)
async def test_a_replica_without_a_name_or_pool_is_refused(replica: Replica) -> None:
    async with running() as client:
        with pytest.raises(aio.AioRpcError) as caught:
            await client.register(replica)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_unregisters_is_gone_at_once() -> None:
    async with running() as client:
        await client.register(a_replica("v0"))
        await client.stub.Unregister(
            control_pb2.UnregisterRequest(replica="v0", incarnation=1), timeout=20.0
        )
        fleet = await client.fleet_when(lambda fleet: not fleet.members and bool(fleet.pools))
        assert wanted(fleet) == {"verifier": 0}


async def test_a_wish_shows_in_the_fleet_and_zero_is_one() -> None:
    async with running() as client:
        await client.register(a_replica("d0", Role.DRAFTER))
        await client.fleet_when(lambda fleet: wanted(fleet) == {"drafter": 1})
        assert await client.want("drafter", 0) == 1
        await client.fleet_when(lambda fleet: wanted(fleet) == {"drafter": 0})
        assert await client.want("drafter", 2) == 0


async def test_a_wish_for_an_unknown_pool_is_refused_with_the_known_ones() -> None:
    async with running() as client:
        await client.register(a_replica("v0"))
        with pytest.raises(aio.AioRpcError) as caught:
            await client.want("gpus", 2)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "known pools: verifier" in str(caught.value.details())


async def test_initial_replicas_are_wanted_before_any_is_there() -> None:
    settings = FAST.model_copy(update={"initial_replicas": {"verifier": 2, "drafter": 1}})
    async with running(settings) as client:
        await client.register(a_replica("v0"))
        await client.fleet_when(lambda fleet: wanted(fleet) == {"verifier": 2, "drafter": 1})


async def test_a_restart_keeps_wishes_and_raises_the_term(tmp_path: Path) -> None:
    store = str(tmp_path / "controller.sqlite")
    async with running(store=store) as client:
        await client.register(a_replica("d0", Role.DRAFTER))
        await client.want("drafter", 3)
    async with running(store=store) as client:
        fleet = await client.fleet_when(lambda fleet: bool(fleet.pools))
        assert (fleet.term, wanted(fleet)) == (2, {"drafter": 3})
        await client.register(a_replica("v0"))
        watch = client.stub.WatchBudget(
            control_pb2.WatchBudgetRequest(pool="verifier", replica="v0"), timeout=20.0
        )
        assert (await anext(aiter(watch))).term == 2
        watch.cancel()


async def test_a_slow_watcher_gets_the_newest_snapshot_and_not_the_history() -> None:
    async with running() as client:
        watch = client.stub.WatchFleet(control_pb2.WatchFleetRequest(watcher="slow"), timeout=30.0)
        first = fleet_from_wire(await anext(aiter(watch)))
        for i in range(20):
            await client.register(a_replica(f"v{i}"))
        newest = await client.fleet_when(lambda fleet: len(fleet.members) == 20)
        versions = []
        async for message in watch:
            versions.append(message.version)
            if message.version >= newest.version:
                break
        watch.cancel()
        assert versions == sorted(set(versions))
        assert newest.version - first.version < 20
