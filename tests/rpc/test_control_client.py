"""A process's link to a (fake) controller that restarts, refuses, forgets and goes away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from dspark.config.endpoint import EndpointSettings
from dspark.core.budget import Budget
from dspark.core.fleet import Fleet, LoadReport, Replica, ReplicaState
from dspark.core.ids import Term
from dspark.rpc.control_client import ControllerLink
from dspark.rpc.credentials import Credentials
from dspark.rpc.server import RpcServer
from dspark.wire.fleet import fleet_to_wire
from dspark.wire.v1 import control_pb2, control_pb2_grpc
from tests.fleet_examples import a_replica, a_report
from tests.rpc.pki import Pki, an_authority


class FakeControl(control_pb2_grpc.ControlServiceServicer):
    """Notes what it is told; refuses or forgets when a test says so."""

    def __init__(self) -> None:
        self.registered: list[control_pb2.Replica] = []
        self.unregistered: list[str] = []
        self.reports: list[control_pb2.LoadReport] = []
        self.refusal: str | None = None
        self.forgets = False
        self.fleets: asyncio.Queue[control_pb2.Fleet] = asyncio.Queue()
        self.budgets: asyncio.Queue[control_pb2.Budget] = asyncio.Queue()

    async def Register(self, request, context):  # type: ignore[no-untyped-def]
        if self.refusal is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        self.registered.append(request.replica)
        return control_pb2.RegisterResponse(lease_seconds=1.0, report_interval_seconds=0.02)

    async def Unregister(self, request, context):  # type: ignore[no-untyped-def]
        self.unregistered.append(request.replica)
        return control_pb2.UnregisterResponse()

    async def Report(self, request_iterator, context):  # type: ignore[no-untyped-def]
        async for report in request_iterator:
            self.reports.append(report)
            if self.forgets:
                self.forgets = False
                await context.abort(grpc.StatusCode.NOT_FOUND, "register again")
        return control_pb2.ReportResponse()

    async def WatchFleet(self, request, context):  # type: ignore[no-untyped-def]
        while True:
            yield await self.fleets.get()

    async def WatchBudget(self, request, context):  # type: ignore[no-untyped-def]
        while True:
            yield await self.budgets.get()


class Site:
    """A controller's address; the controller there may change."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.control = FakeControl()
        self.port = 0
        self.credentials = credentials
        self._server: RpcServer | None = None

    async def up(self) -> None:
        endpoint = EndpointSettings(port_min=self.port, port_max=self.port)
        server = RpcServer(endpoint, [], self.credentials)
        control = self.control
        server.add(lambda it: control_pb2_grpc.add_ControlServiceServicer_to_server(control, it))
        self.port = int((await server.start()).split(":")[1])
        self._server = server

    async def down(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def restart(self) -> None:
        await self.down()
        self.control = FakeControl()
        await self.up()


@asynccontextmanager
async def linked(
    ours: Credentials | None = None, its: Credentials | None = None
) -> AsyncIterator[tuple[Site, ControllerLink]]:
    site = Site(its)
    await site.up()
    link = ControllerLink(
        f"127.0.0.1:{site.port}", watcher="me", credentials=ours, call_timeout_s=2.0
    )
    try:
        yield site, link
    finally:
        await link.close()
        await site.down()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20.0):
        while not holds():  # noqa: ASYNC110 - a server's handlers make it true
            await asyncio.sleep(0.005)


ME: Replica = a_replica("me")


def report() -> LoadReport:
    return a_report("me", active=3)


async def test_a_replica_registers_and_then_reports_for_ever() -> None:
    async with linked() as (site, link):
        link.start_announcing(ME, report)
        await until(lambda: len(site.control.reports) >= 3)
        assert [replica.name for replica in site.control.registered] == ["me"]
        assert site.control.reports[0].active_sessions == 3


async def test_a_change_is_registered_and_the_reports_go_on() -> None:
    async with linked() as (site, link):
        link.start_announcing(ME, report)
        await until(lambda: site.control.reports)
        link.update(replace(ME, state=ReplicaState.DRAINING))
        await until(lambda: len(site.control.registered) == 2)
        assert site.control.registered[-1].state == control_pb2.REPLICA_STATE_DRAINING
        count = len(site.control.reports)
        await until(lambda: len(site.control.reports) > count)


async def test_a_refusal_is_kept_for_people_and_cleared_when_it_ends() -> None:
    async with linked() as (site, link):
        site.control.refusal = "vocab_size: 3 in the fleet, 4 offered"
        link.start_announcing(ME, report)
        await until(lambda: link.refused is not None)
        assert link.refused == "vocab_size: 3 in the fleet, 4 offered"
        site.control.refusal = None
        await until(lambda: link.refused is None and site.control.reports)


async def test_a_controller_that_forgot_the_replica_hears_of_it_again() -> None:
    async with linked() as (site, link):
        site.control.forgets = True
        link.start_announcing(ME, report)
        await until(lambda: len(site.control.registered) == 2 and len(site.control.reports) > 2)


async def test_a_controller_that_restarts_is_found_again() -> None:
    async with linked() as (site, link):
        link.start_announcing(ME, report)
        link.start_watching_fleet()
        site.control.fleets.put_nowait(fleet_to_wire(Fleet(term=Term(1), version=1)))
        await until(lambda: site.control.reports and link.fleet.value is not None)
        await site.restart()
        assert link.fleet.value is not None
        assert link.fleet.value.version == 1  # what was last heard stays
        site.control.fleets.put_nowait(fleet_to_wire(Fleet(term=Term(2), version=1)))
        await until(lambda: site.control.registered and site.control.reports)
        await until(lambda: link.fleet.value is not None and link.fleet.value.term == 2)


async def test_a_change_announced_while_the_controller_is_away_arrives_later() -> None:
    async with linked() as (site, link):
        link.start_announcing(ME, report)
        await until(lambda: site.control.reports)
        site.control.refusal = "not now"  # the registration inside the report stream fails
        link.update(replace(ME, state=ReplicaState.DRAINING))
        await until(lambda: link.refused == "not now")
        site.control.refusal = None
        await until(lambda: len(site.control.registered) >= 2)
        count = len(site.control.reports)
        await until(lambda: len(site.control.reports) > count)


async def test_one_report_that_cannot_be_made_does_not_end_reporting() -> None:
    calls = 0

    def failing() -> LoadReport:
        nonlocal calls
        calls += 1
        if calls == 2:
            return replace(report(), active_sessions=-1)  # no such number on the wire
        return report()

    async with linked() as (site, link):
        link.start_announcing(ME, failing)
        await until(lambda: len(site.control.reports) >= 4)
        assert len(site.control.registered) == 2


async def test_leaving_is_said_once_and_not_taken_back() -> None:
    async with linked() as (site, link):
        link.start_announcing(ME, report)
        await until(lambda: site.control.reports)
        await link.unregister()
        await asyncio.sleep(0.3)  # longer than the first pause before another attempt
        assert site.control.unregistered == ["me"]
        assert len(site.control.registered) == 1


async def test_leaving_without_a_controller_ends_all_the_same() -> None:
    async with linked() as (site, link):
        link.start_announcing(ME, report)
        await until(lambda: site.control.reports)
        await site.down()
        await link.unregister()


async def test_budgets_are_handed_on_and_a_malformed_one_ends_only_its_stream() -> None:
    heard: list[Budget] = []
    good = control_pb2.Budget(
        pool="v",
        term=1,
        epoch=4,
        buckets=[control_pb2.Budget.ContextBucket(max_context_tokens=9, draft_tokens=[-1])],
    )
    async with linked() as (site, link):
        link.start_watching_budget("v", heard.append)
        site.control.budgets.put_nowait(good)
        await until(lambda: heard)
        assert (heard[0].epoch, heard[0].buckets[0].draft_tokens) == (4, (-1,))
        site.control.budgets.put_nowait(control_pb2.Budget(pool="v"))
        await asyncio.sleep(0.05)
        site.control.budgets.put_nowait(good)
        await until(lambda: len(heard) == 2)


async def test_after_every_certificate_was_replaced_a_lost_controller_is_found_again(
    tmp_path: Path,
) -> None:
    pki = Pki(tmp_path)
    ours = Credentials(pki.settings())
    async with linked(ours, Credentials(pki.settings())) as (site, link):
        link.start_announcing(ME, report)
        await until(lambda: site.control.reports)
        pki.authority = an_authority("next")
        pki.trust(pki.authority)
        pki.renew()
        count = len(site.control.reports)
        await until(lambda: len(site.control.reports) > count)  # what is open goes on
        await site.restart()
        await until(lambda: site.control.reports)


async def test_a_replica_without_tls_is_told_so_once_and_goes_on_trying(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki = Pki(tmp_path)
    async with linked(None, Credentials(pki.settings())) as (site, link):
        link.start_announcing(ME, report)
        link.start_watching_fleet()
        await until(lambda: "does it want TLS, which is not set here (tls)?" in caplog.text)
        site.credentials = None
        await site.restart()
        await until(lambda: site.control.reports)
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert len(errors) == 1
    assert f"controller at 127.0.0.1:{site.port}: " in errors[0].getMessage()
