"""Real controllers and a real Redis, killed one after the other."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspark.controller.memory import PERIOD_S
from dspark.core.budget import Budget, verify_all
from dspark.core.curve import Curve
from dspark.core.fleet import LoadReport
from dspark.core.ids import Epoch, PoolName, Term
from dspark.rpc.control_client import ControllerLink
from dspark.verifier.budget_cell import BudgetCell
from tests.controller.redis_server import RedisServer, a_redis
from tests.fleet_examples import a_curve, a_replica, a_report

pytestmark = pytest.mark.slow

LEASE_S = 1.0
KNEE = a_curve({1: 0.010, 8: 0.011, 16: 0.040}, sessions=(1, 2, 4))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Process:
    """One controller process."""

    port: int
    api_port: int
    popen: "subprocess.Popen[bytes]"

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{self.api_port}{path}"
        return httpx.request(method, url, trust_env=False, timeout=10.0, **more)

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait(10)

    def leads(self) -> bool:
        try:
            return self.ask("GET", "/v1/fleet").status_code == 200
        except httpx.HTTPError:
            return False


def launch(store: str, ports: tuple[int, int] | None = None) -> Process:
    port, api_port = ports or free_ports(2)
    settings = {
        "port": port, "api_port": api_port, "store": store, "leader_lease_s": LEASE_S,
        "tick_s": 0.05, "report_interval_s": 0.1, "budget_ttl_s": 2.0, "settle_s": 0.5,
        "initial_replicas": {"verifier": 1}, "min_samples": 8, "max_cohorts": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "dspark.controller", "--config-json", json.dumps(settings)]
    return Process(port, api_port, subprocess.Popen(command, stderr=subprocess.DEVNULL))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with a_redis() as running:
        yield running


@pytest.fixture
def processes(server: RedisServer) -> Iterator[list[Process]]:
    """The leader first, then its standby."""
    started = [launch(server.url)]
    try:
        until(started[0].leads)
        started.append(launch(server.url))
        until(lambda: answers(started[1]))
        yield started
    finally:
        for process in started:
            process.end()


def answers(process: Process) -> bool:
    try:
        return process.ask("GET", "/health").status_code == 200
    except httpx.HTTPError:
        return False


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "in vain"
        time.sleep(0.05)


class Verifier:
    """What a verifier has of the control plane: a link, and a budget cell."""

    def __init__(self, link: ControllerLink, curve: Curve | None) -> None:
        self.link = link
        self.cell = BudgetCell(curve_version="" if curve is None else curve.version)
        self.terms: list[Term] = []
        self.survivals: tuple[tuple[float, ...], ...] = ()

    def take(self, budget: Budget) -> None:
        if self.cell.offer(budget, time.monotonic()):
            self.terms.append(budget.term)

    def report(self) -> LoadReport:
        epoch = self.cell.epoch(time.monotonic())
        term = self.terms[-1] if self.terms else None
        return replace(
            a_report("v0", active=4, survivals=self.survivals),
            budget_epoch=Epoch(epoch) if epoch else None,
            budget_term=term,
        )

    def entry(self, sessions: int = 1) -> int | None:
        return self.cell.entry(sessions=sessions, mean_context_tokens=0.0, now_s=time.monotonic())

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60.0):
            while not holds():  # noqa: ASYNC110 - the link's tasks make it true
                await asyncio.sleep(0.02)


@asynccontextmanager
async def a_verifier(
    processes: list[Process], *, curve: Curve | None = None
) -> AsyncIterator[Verifier]:
    # gRPC's own way to name several addresses; only a leader listens.
    target = "ipv4:" + ",".join(f"127.0.0.1:{process.port}" for process in processes)
    link = ControllerLink(target, watcher="v0")
    verifier = Verifier(link, curve)
    link.start_watching_budget("verifier", verifier.take)
    link.start_announcing(a_replica("v0", curve=curve), verifier.report)
    try:
        yield verifier
    finally:
        await link.close()


def set_cap(process: Process, cap: int) -> httpx.Response:
    body = {"policy": {"cap": cap}, "reason": "a test"}
    return process.ask("PUT", "/v1/pools/verifier/policy", json=body)


def cap_at(process: Process) -> int | None:
    read = process.ask("GET", "/v1/pools/verifier/policy")
    assert read.status_code == 200
    cap: int | None = read.json()["policy"]["cap"]
    return cap


async def test_a_killed_leader_is_followed_by_its_standby_with_the_same_policies(
    processes: list[Process],
) -> None:
    leader, standby = processes
    assert set_cap(leader, 7).status_code == 200
    refused = set_cap(standby, 9)
    assert refused.status_code == 409
    assert str(leader.api_port) in refused.json()["error"]["hint"]
    until(lambda: cap_at(standby) == 7)  # a standby serves reads, as fresh as its last look
    async with a_verifier(processes) as verifier:
        await verifier.until(lambda: verifier.entry() == 7)
        first = verifier.terms[-1]
        leader.popen.kill()
        killed_s = time.monotonic()
        await asyncio.to_thread(until, standby.leads)
        print(f"\na standby leads {time.monotonic() - killed_s:.2f} s after kill -9")
        await verifier.until(lambda: verifier.terms[-1] > first)
        assert verifier.entry() == 7
        assert set_cap(standby, 3).status_code == 200
        await verifier.until(lambda: verifier.entry() == 3)


@pytest.mark.long
async def test_a_paused_leader_finds_itself_deposed_and_ends(processes: list[Process]) -> None:
    leader, standby = processes
    os.kill(leader.popen.pid, signal.SIGSTOP)
    await asyncio.to_thread(until, standby.leads)
    os.kill(leader.popen.pid, signal.SIGCONT)
    assert await asyncio.to_thread(leader.popen.wait, 30) == 3
    assert standby.leads()


@pytest.mark.long
async def test_a_lost_store_stops_no_budget_and_is_told_again_when_it_is_back_empty(
    server: RedisServer, processes: list[Process]
) -> None:
    leader, standby = processes
    set_cap(leader, 7)
    async with a_verifier(processes) as verifier:
        await verifier.until(lambda: verifier.entry() == 7)
        server.stop()
        assert set_cap(leader, 9).status_code == 503
        count = len(verifier.terms)
        await verifier.until(lambda: len(verifier.terms) > count + 2)
        assert verifier.entry() == 7, "renewed as before"
        server.start()
        await verifier.until(lambda: set_cap(leader, 9).status_code == 200)
        await verifier.until(lambda: verifier.entry() == 9)
        # A standby that takes over from here finds it.
        leader.popen.kill()
        await asyncio.to_thread(until, standby.leads)
        state = standby.ask("GET", "/v1/pools/verifier/policy").json()
        assert state["policy"]["cap"] == 9


@pytest.mark.long
async def test_terms_go_on_above_what_replicas_hold_after_everything_was_lost(
    server: RedisServer, processes: list[Process]
) -> None:
    async with a_verifier(processes) as verifier:
        high = a_budget(term=1000)
        verifier.take(high)
        await verifier.until(lambda: verifier.terms[-1] > 1000)


def a_budget(*, term: int) -> Budget:
    return Budget(
        pool=PoolName("verifier"), term=Term(term), epoch=Epoch(1), ttl_s=0.1,
        curve_version="", buckets=verify_all(),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_restart_goes_on_with_what_was_learned(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        store = str(tmp_path / "c.sqlite")
        if kind == "redis":
            store = stack.enter_context(a_redis()).url
        first = launch(store)
        stack.callback(first.end)
        until(first.leads)
        async with a_verifier([first], curve=KNEE) as verifier:
            verifier.survivals = ((0.9, 0.8, 0.1),) * 8
            await verifier.until(lambda: (verifier.entry(4) or -1) > 0)
            trimmed, term = verifier.entry(4), verifier.terms[-1]
            await asyncio.sleep(PERIOD_S + 0.5)  # it is written by then
            verifier.survivals = ()
            first.end()
            again = launch(store, (first.port, first.api_port))
            stack.callback(again.end)
            await asyncio.to_thread(until, again.leads)
            await verifier.until(lambda: verifier.terms[-1] > term)
            assert verifier.entry(4) == trimmed
            (why,) = again.ask("GET", "/v1/pools/verifier/budget").json()["classes"]
            assert "as before; 0 of 8 committed rounds are known" in why["reason"]
        curves = again.ask("GET", "/v1/curves").json()["curves"]
        assert [curve["version"] for curve in curves] == ["curve"]
