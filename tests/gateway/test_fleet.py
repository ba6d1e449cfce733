import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import aio

from dspark.core.fleet import Fleet
from dspark.gateway.fleet import (
    FleetView,
    fleet_json,
    read_fleet,
    restarted,
    with_missing,
    write_fleet,
)
from dspark.rpc.watch import Latest
from dspark.wire.fleet import fleet_to_wire
from dspark.wire.v1 import control_pb2, control_pb2_grpc
from tests.gateway.fakes import fleet_of, member


class FakeController(control_pb2_grpc.ControlServiceServicer):
    """Broadcasts what it is given; of the service, no more is called here."""

    Register = Unregister = Report = WatchBudget = SetWantedReplicas = None  # type: ignore[assignment]

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = Latest(fleet)

    async def WatchFleet(
        self, request: control_pb2.WatchFleetRequest, context: object
    ) -> AsyncIterator[control_pb2.Fleet]:
        async for fleet in self.fleet.watch():
            yield fleet_to_wire(fleet)


async def start(controller: FakeController, port: int = 0) -> tuple[aio.Server, int]:
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    control_pb2_grpc.add_ControlServiceServicer_to_server(controller, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, bound


def names(fleet: Fleet | None) -> list[str]:
    return [] if fleet is None else [m.replica.name for m in fleet.members]


async def until_seen(view: FleetView, expected: list[str]) -> None:
    async with asyncio.timeout(5):
        async for fleet in view.fleet.watch():
            if names(fleet) == expected:
                return


async def test_the_fleet_follows_the_controller_outlives_it_and_finds_it_again(
    tmp_path: Path,
) -> None:
    server, port = await start(FakeController(fleet_of(member("a"), version=7)))
    file = tmp_path / "deep" / "fleet.json"
    view = FleetView(f"127.0.0.1:{port}", watcher="test", file=str(file))
    view.start()
    await until_seen(view, ["a"])
    await server.stop(None)
    await asyncio.sleep(0.05)
    assert names(view.fleet.value) == ["a"]
    assert names(read_fleet(file)) == ["a"]

    # A controller that knows only one of them yet.
    server, _ = await start(FakeController(fleet_of(member("b"), version=1)), port)
    await until_seen(view, ["b", "a"])
    view._settle()
    assert names(view.fleet.value) == ["b"]
    await view.close()
    await server.stop(None)


async def test_without_a_controller_the_fleet_of_the_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    write_fleet(file, fleet_of(member("a")))
    view = FleetView("127.0.0.1:1", watcher="test", file=str(file))
    view.start()
    assert view.fleet.value == fleet_of(member("a"))
    await view.close()


@pytest.mark.parametrize("text", ["", "{", '{"members": [{"replica": {"role": "ROLE_KING"}}]}'])
def test_a_file_that_cannot_be_read_is_no_fleet(tmp_path: Path, text: str) -> None:
    file = tmp_path / "fleet.json"
    file.write_text(text)
    assert not names(read_fleet(file))


def test_a_controller_began_anew_when_its_term_changes_or_its_versions_go_back() -> None:
    before = fleet_of(version=5, term=2)
    assert not restarted(before, fleet_of(version=5, term=2))
    assert not restarted(before, fleet_of(version=9, term=2))
    assert restarted(before, fleet_of(version=4, term=2))
    assert restarted(before, fleet_of(version=9, term=3))


def test_a_replica_that_came_back_is_not_kept_in_its_old_life() -> None:
    kept = with_missing(
        fleet_of(member("a", incarnation=2)), fleet_of(member("a", incarnation=1), member("b"))
    )
    assert [(m.replica.name, m.replica.incarnation) for m in kept.members] == [("a", 2), ("b", 1)]


def test_people_see_the_fleet_as_json() -> None:
    assert json.loads(fleet_json(None))["members"] == []
    shown = json.loads(fleet_json(fleet_of(member("a"))))
    assert shown["members"][0]["replica"]["role"] == "verifier"
