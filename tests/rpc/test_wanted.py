"""The wish for a pool, as a synchronous caller sees it, against a real gRPC server."""

import gc
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from dspark.rpc.ask import ask_for_replicas, fleet_snapshot
from dspark.rpc.credentials import Credentials
from dspark.rpc.wanted import WantedReplicas
from dspark.wire.v1 import control_pb2, control_pb2_grpc
from tests.rpc.pki import Pki

_PATIENCE_S = 20.0


class Controller(control_pb2_grpc.ControlServiceServicer):
    """Knows one pool."""

    def __init__(self) -> None:
        self.wanted = 1
        self.watchers = 0

    def WatchFleet(
        self, request: control_pb2.WatchFleetRequest, context: grpc.ServicerContext
    ) -> Iterator[control_pb2.Fleet]:
        self.watchers += 1
        said = -1
        try:
            while context.is_active():
                if said != self.wanted:
                    said = self.wanted
                    pool = control_pb2.Fleet.Pool(
                        name="drafter",
                        role=2,
                        wanted_replicas=said,  # type: ignore[arg-type]
                    )
                    yield control_pb2.Fleet(version=1, pools=[pool])
                time.sleep(0.02)
        finally:
            self.watchers -= 1

    def SetWantedReplicas(
        self, request: control_pb2.SetWantedReplicasRequest, context: grpc.ServicerContext
    ) -> control_pb2.SetWantedReplicasResponse:
        if request.pool != "drafter":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no pool is called {request.pool}")
        previous, self.wanted = self.wanted, request.replicas
        return control_pb2.SetWantedReplicasResponse(previous_replicas=previous)


@pytest.fixture
def controller() -> Iterator[tuple[Controller, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    servicer = Controller()
    control_pb2_grpc.add_ControlServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0.1).wait()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def guarded(pki: Pki) -> Iterator[str]:
    """The address of a controller that speaks TLS."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    control_pb2_grpc.add_ControlServiceServicer_to_server(Controller(), server)
    credentials = Credentials(pki.settings()).for_server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0.1).wait()


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_the_wish_is_followed_also_to_zero(controller: tuple[Controller, str]) -> None:
    servicer, address = controller
    wanted = WantedReplicas(address, "drafter")
    until(lambda: wanted.newest == 1)
    servicer.wanted = 0
    until(lambda: wanted.newest == 0)


def test_a_pool_that_the_controller_does_not_know_has_no_wish(
    controller: tuple[Controller, str],
) -> None:
    servicer, address = controller
    wanted = WantedReplicas(address, "verifier")
    until(lambda: servicer.watchers == 1)
    assert wanted.newest is None


def test_an_unreachable_controller_has_no_wish_and_blocks_nobody() -> None:
    began_s = time.monotonic()
    wanted = WantedReplicas("127.0.0.1:1", "drafter")
    assert wanted.newest is None
    assert time.monotonic() - began_s < 5.0


def test_a_dropped_follower_ends(controller: tuple[Controller, str]) -> None:
    servicer, address = controller
    followers = [WantedReplicas(address, "drafter")]
    until(lambda: followers[0].newest == 1)
    followers.clear()
    gc.collect()
    servicer.wanted = 5  # the next message finds nobody
    until(lambda: servicer.watchers == 0)


def test_one_question_gets_one_answer(controller: tuple[Controller, str]) -> None:
    _, address = controller
    fleet = fleet_snapshot(address, timeout_s=_PATIENCE_S)
    assert [(pool.name, pool.wanted_replicas) for pool in fleet.pools] == [("drafter", 1)]


def test_asking_for_replicas_returns_the_previous_wish(controller: tuple[Controller, str]) -> None:
    servicer, address = controller
    previous = ask_for_replicas(
        address, "drafter", 3, author="me", reason="test", timeout_s=_PATIENCE_S
    )
    assert (previous, servicer.wanted) == (1, 3)


def test_a_refusal_carries_the_controllers_words(controller: tuple[Controller, str]) -> None:
    _, address = controller
    with pytest.raises(ValueError, match="no pool is called zebra"):
        ask_for_replicas(address, "zebra", 3, author="me", reason="test", timeout_s=_PATIENCE_S)


def test_a_controller_that_is_not_there_is_named() -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1 does not answer"):
        fleet_snapshot("127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1 does not answer"):
        ask_for_replicas("127.0.0.1:1", "drafter", 1, author="me", reason="", timeout_s=0.5)


def test_a_controller_with_tls_answers_who_has_a_certificate(guarded: str, pki: Pki) -> None:
    ours = Credentials(pki.settings())
    assert fleet_snapshot(guarded, credentials=ours, timeout_s=_PATIENCE_S).pools
    wanted = WantedReplicas(guarded, "drafter", ours)
    until(lambda: wanted.newest == 1)
    previous = ask_for_replicas(
        guarded, "drafter", 2, author="me", reason="", credentials=ours, timeout_s=_PATIENCE_S
    )
    assert previous == 1


def test_without_tls_a_controller_that_wants_it_is_told_from_one_that_is_away(guarded: str) -> None:
    with pytest.raises(ConnectionError, match="does not answer: it hung up at once: does it want"):
        fleet_snapshot(guarded, timeout_s=_PATIENCE_S)
    with pytest.raises(ConnectionError, match="does not answer: it hung up at once: does it want"):
        ask_for_replicas(guarded, "drafter", 1, author="", reason="", timeout_s=_PATIENCE_S)
