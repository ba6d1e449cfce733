"""One question to the controller, from code that has no event loop: a command, a supervisor."""

import grpc

from dspark.core.fleet import Fleet
from dspark.rpc.channel import open_blocking_channel
from dspark.rpc.credentials import Credentials
from dspark.rpc.tls_problem import tls_problem
from dspark.wire.fleet import fleet_from_wire
from dspark.wire.v1 import control_pb2, control_pb2_grpc


def fleet_snapshot(
    controller: str, *, credentials: Credentials | None = None, timeout_s: float
) -> Fleet:
    """Return the fleet as the controller sees it now.

    Raises:
        ConnectionError: The controller did not answer in time.
    """
    why = ""
    with open_blocking_channel(controller, credentials) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        call = stub.WatchFleet(control_pb2.WatchFleetRequest(watcher="cli"), timeout=timeout_s)
        try:
            for message in call:
                return fleet_from_wire(message)
        except grpc.RpcError as error:
            why = _because(error, credentials)
        finally:
            call.cancel()
    raise ConnectionError(f"the controller at {controller} does not answer{why}")


def ask_for_replicas(
    controller: str,
    pool: str,
    replicas: int | None,
    *,
    author: str,
    reason: str,
    credentials: Credentials | None = None,
    timeout_s: float,
) -> int:
    """Set a pool's wanted replicas, or with None let its load decide; return the previous number.

    Raises:
        ConnectionError: The controller did not answer in time.
        ValueError: It refused, for instance because it knows no such pool.
    """
    request = control_pb2.SetWantedReplicasRequest(
        pool=pool, replicas=replicas or 0, automatic=replicas is None, author=author, reason=reason
    )
    with open_blocking_channel(controller, credentials) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        try:
            return stub.SetWantedReplicas(request, timeout=timeout_s).previous_replicas
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                why = _because(error, credentials)
                raise ConnectionError(
                    f"the controller at {controller} does not answer{why}"
                ) from None
            raise ValueError(f"the controller refuses: {error.details()}") from None


def _because(error: grpc.RpcError, credentials: Credentials | None) -> str:
    tls = None if credentials is None else credentials.settings
    problem = tls_problem(error.details() or "", tls)
    return "" if problem is None else f": {problem}"
