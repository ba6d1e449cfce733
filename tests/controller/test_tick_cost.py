"""What the controller costs at a large fleet: printed and not asserted, but for what was computed.

pytest -m long tests/controller/test_tick_cost.py
"""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from dspark.config.controller import ControllerSettings
from dspark.config.endpoint import EndpointSettings
from dspark.controller.loop import Controller
from dspark.controller.service import SERVICE_NAME, ControlService, add_control_service
from dspark.controller.store import MemoryStore
from dspark.core.fleet import Role
from dspark.rpc.channel import open_channel
from dspark.rpc.server import RpcServer
from dspark.wire.snapshot import FleetEncoder
from dspark.wire.v1 import control_pb2, control_pb2_grpc
from tests.fleet_examples import a_curve, a_replica, a_report

pytestmark = pytest.mark.long

CURVE = a_curve(
    {n: 0.01 + 0.001 * n for n in (1, 2, 4, 8, 16, 32, 64, 128)},
    sessions=(1, 4, 16, 64), context_tokens=(64, 512),
)  # fmt: skip
WATCHERS = 1000


def a_controller(replicas: int) -> Controller:
    controller = Controller(ControllerSettings(min_samples=32), MemoryStore())
    for i in range(replicas):
        role = Role.DRAFTER if i % 4 == 0 else Role.VERIFIER
        controller.register(a_replica(f"r{i}", role, curve=CURVE), 0.0)
    return controller


def report(controller: Controller, replicas: int, now_s: float) -> None:
    draw = random.Random(now_s)
    for i in range(replicas):
        vector = tuple(sorted((draw.random() for _ in range(3)), reverse=True))
        survivals = [vector] * 2 if i % 4 else []
        controller.report(a_report(f"r{i}", active=8, survivals=survivals), now_s)


def milliseconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began_s)


@pytest.mark.parametrize("replicas", [1000, 10_000])
def test_a_tick_over_a_large_fleet(replicas: int, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[Controller] = []
    register = milliseconds(lambda: made.append(a_controller(replicas)))
    controller, reports, ticks, encodes = made[0], [], [], []
    whole, brief = FleetEncoder(), FleetEncoder()
    for round_ in range(4):
        now_s = 2.5 * round_  # past the dwell time: every table is computed anew
        reports.append(milliseconds(lambda now_s=now_s: report(controller, replicas, now_s)))
        ticks.append(milliseconds(lambda now_s=now_s: controller.tick(now_s, unix_s=0.0)))
        fleet = controller.fleet.value
        assert fleet is not None
        assert len(fleet.members) == replicas
        encodes.append(
            (
                milliseconds(lambda fleet=fleet: whole.encode(fleet)),
                milliseconds(lambda fleet=fleet: brief.encode(fleet, brief=True)),
            )
        )
    assert len([key for key in controller.plan.issued if key[0] == "verifier"]) == 1
    with capsys.disabled():
        print(
            f"\n{replicas} replicas: registered in {register:.0f} ms, a round of reports in "
            f"{min(reports):.0f} ms, a tick {min(ticks):.0f} to {max(ticks):.0f} ms, a snapshot "
            f"encoded first in {encodes[0][0]:.0f} and then in {encodes[-1][0]:.0f} ms "
            f"({len(whole.encode(fleet)) // 1000} kB), brief in {encodes[-1][1]:.0f} ms "
            f"({len(brief.encode(fleet, brief=True)) // 1000} kB)"
        )


async def test_a_snapshot_reaches_a_thousand_watchers(capsys: pytest.CaptureFixture[str]) -> None:
    controller = a_controller(100)
    server = RpcServer(EndpointSettings(), [SERVICE_NAME])
    service = ControlService(controller, controller.settings)
    server.add(lambda target: add_control_service(service, target))
    address = await server.start()
    versions = [0] * WATCHERS

    async def watch(number: int, stub: "control_pb2_grpc.ControlServiceAsyncStub") -> None:
        request = control_pb2.WatchFleetRequest(brief=True)
        async for fleet in stub.WatchFleet(request):
            versions[number] = fleet.version

    channels = [open_channel(address) for _ in range(20)]
    stubs = [control_pb2_grpc.ControlServiceStub(channel) for channel in channels]
    tasks = [
        asyncio.create_task(watch(i, stubs[i % len(stubs)]))  # type: ignore[arg-type]
        for i in range(WATCHERS)
    ]
    seconds = []
    try:
        for round_ in range(4):
            report(controller, 100, float(round_))
            began_s = time.perf_counter()
            controller.tick(float(round_), unix_s=0.0)
            assert controller.fleet.value is not None
            newest = controller.fleet.value.version
            async with asyncio.timeout(60):
                while min(versions) < newest:  # noqa: ASYNC110 - the watchers make it true
                    await asyncio.sleep(0.005)
            seconds.append(time.perf_counter() - began_s)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
        await server.stop(0.0)
    with capsys.disabled():
        print(
            f"\na snapshot of 100 replicas is at {WATCHERS} watchers after "
            f"{1000 * min(seconds):.0f} ms (watchers and controller share one core)"
        )
