"""ControlService over gRPC: converts, calls the controller, streams the newest; decides nothing."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc import aio

from dspark.config.controller import ControllerSettings
from dspark.controller.loop import Controller
from dspark.controller.registry import Refused, ReportOutcome, UnknownPool
from dspark.controller.store import StoreLost, Superseded
from dspark.core.fleet import Replica
from dspark.core.ids import Incarnation, PoolName, ReplicaName
from dspark.wire.budget import budget_to_wire
from dspark.wire.fleet import load_report_from_wire, replica_from_wire
from dspark.wire.snapshot import FleetEncoder
from dspark.wire.v1 import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

SERVICE_NAME = control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """See control.proto; status codes are those of common.proto.

    A report of a replica that is not registered ends its stream with NOT_FOUND: the replica was
    silent for too long, or the controller restarted, and it has to register again.
    """

    def __init__(self, controller: Controller, settings: ControllerSettings) -> None:
        self._controller = controller
        self._settings = settings
        self._encoder = FleetEncoder()

    async def Register(
        self,
        request: control_pb2.RegisterRequest,
        context: aio.ServicerContext[control_pb2.RegisterRequest, control_pb2.RegisterResponse],
    ) -> control_pb2.RegisterResponse:
        """Let a replica in, or refuse it with the field that does not fit."""
        try:
            replica = replica_from_wire(request.replica)
            _check_names(replica)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        try:
            self._controller.register(replica, _now_s())
        except Refused as refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refusal))
        return control_pb2.RegisterResponse(
            lease_seconds=self._settings.lease_s,
            report_interval_seconds=self._settings.report_interval_s,
            term=self._controller.term,
        )

    async def Unregister(
        self,
        request: control_pb2.UnregisterRequest,
        context: aio.ServicerContext[control_pb2.UnregisterRequest, control_pb2.UnregisterResponse],
    ) -> control_pb2.UnregisterResponse:
        """Let a replica go; one that is not here is gone already."""
        self._controller.unregister(ReplicaName(request.replica), Incarnation(request.incarnation))
        return control_pb2.UnregisterResponse()

    async def Report(
        self,
        request_iterator: AsyncIterator[control_pb2.LoadReport],
        context: aio.ServicerContext[control_pb2.LoadReport, control_pb2.ReportResponse],
    ) -> control_pb2.ReportResponse:
        """Take reports in until the replica ends its stream."""
        async for message in request_iterator:
            try:
                report = load_report_from_wire(message)
            except ValueError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            outcome = self._controller.report(report, _now_s())
            if outcome is ReportOutcome.UNKNOWN:
                await context.abort(
                    grpc.StatusCode.NOT_FOUND, f"{report.replica} is not registered: register again"
                )
        return control_pb2.ReportResponse()

    async def WatchBudget(
        self,
        request: control_pb2.WatchBudgetRequest,
        context: aio.ServicerContext[control_pb2.WatchBudgetRequest, control_pb2.Budget],
    ) -> AsyncIterator[control_pb2.Budget]:
        """Send the budget of the replica's class, then every newer one."""
        pool, replica = PoolName(request.pool), ReplicaName(request.replica)
        sent = None
        async for _ in self._controller.epoch.watch():
            budget = self._controller.budget_of(pool, replica)
            if budget is not None and budget is not sent and budget.newer_than(sent):
                sent = budget
                yield budget_to_wire(budget)

    async def WatchFleet(
        self,
        request: control_pb2.WatchFleetRequest,
        context: aio.ServicerContext[control_pb2.WatchFleetRequest, control_pb2.Fleet],
    ) -> AsyncIterator[control_pb2.Fleet]:
        """Send a snapshot, then the newest one whenever there is a newer.

        As bytes (see ``add_control_service``): a message would be serialised again for every
        watcher.
        """
        log.info("%s watches the fleet", request.watcher or "somebody")
        async for fleet in self._controller.fleet.watch():
            encoded: Any = self._encoder.encode(fleet, brief=request.brief)
            yield encoded

    async def SetWantedReplicas(
        self,
        request: control_pb2.SetWantedReplicasRequest,
        context: aio.ServicerContext[
            control_pb2.SetWantedReplicasRequest, control_pb2.SetWantedReplicasResponse
        ],
    ) -> control_pb2.SetWantedReplicasResponse:
        """Keep a wish for a number of replicas, or take it back."""
        try:
            if request.automatic:
                previous = self._controller.release_wanted(
                    PoolName(request.pool), author=request.author, reason=request.reason
                )
            else:
                previous = self._controller.set_wanted(
                    PoolName(request.pool),
                    request.replicas,
                    author=request.author,
                    reason=request.reason,
                    unix_s=time.time(),
                )
        except UnknownPool as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except (StoreLost, Superseded) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return control_pb2.SetWantedReplicasResponse(previous_replicas=previous)


class _Handlers:
    """Takes what generated code would register at a server."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same once more."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Keep them, by method."""
        self.found.update(handlers)


def add_control_service(service: ControlService, server: aio.Server) -> None:
    """Register the service, with ``WatchFleet`` that sends bytes."""
    handlers = _Handlers()
    control_pb2_grpc.add_ControlServiceServicer_to_server(service, handlers)  # type: ignore[arg-type]
    handlers.found["WatchFleet"] = grpc.unary_stream_rpc_method_handler(
        service.WatchFleet,
        request_deserializer=control_pb2.WatchFleetRequest.FromString,
        response_serializer=bytes,
    )
    generic = grpc.method_handlers_generic_handler(SERVICE_NAME, handlers.found)
    server.add_generic_rpc_handlers((generic,))


def _check_names(replica: Replica) -> None:
    for field, value in (("name", replica.name), ("pool", replica.pool)):
        if not value:
            raise ValueError(f"a replica needs a {field}")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
