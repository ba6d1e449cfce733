"""A process's link to the controller: announce, report, watch; for ever and with back-off.

Every loop here survives a missing controller: what was last heard stays (budgets until they
expire, the fleet until the process ends), and the next attempt follows within seconds.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine

import grpc

from dspark.core.budget import Budget
from dspark.core.fleet import Fleet, LoadReport, Replica
from dspark.core.ids import PoolName
from dspark.rpc.channel import told_to_stop
from dspark.rpc.channels import Channels
from dspark.rpc.credentials import Credentials
from dspark.rpc.tls_problem import explained, tls_problem
from dspark.rpc.watch import Latest
from dspark.wire.budget import budget_from_wire
from dspark.wire.fleet import fleet_from_wire, load_report_to_wire, replica_to_wire
from dspark.wire.v1 import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.2
_BACKOFF_MAX_S = 2.0


class ControllerLink:
    """Tasks that keep one process in touch with the controller.

    Start what is needed (``announce``, ``watch_fleet``, ``watch_budget``), then ``close``.
    """

    def __init__(
        self,
        address: str,
        *,
        watcher: str,
        credentials: Credentials | None = None,
        call_timeout_s: float = 10.0,
    ) -> None:
        self._address = address
        self._tls = None if credentials is None else credentials.settings
        self._channels = Channels(credentials)
        self._warned: str | None = None
        self._watcher = watcher
        self._call_timeout_s = call_timeout_s
        self._tasks: list[asyncio.Task[None]] = []
        self._announce = asyncio.Event()
        self._replica: Replica | None = None
        self.fleet: Latest[Fleet] = Latest()
        self.refused: str | None = None
        """Why the controller refused this replica, or None."""

    def start_watching_fleet(self) -> None:
        """Keep ``fleet`` at the newest snapshot."""
        self._spawn(self._retry("fleet", self._watch_fleet))

    def start_watching_budget(self, pool: str, on_budget: Callable[[Budget], object]) -> None:
        """Call ``on_budget`` with every budget of ``pool``."""

        async def watch() -> None:
            request = control_pb2.WatchBudgetRequest(pool=pool, replica=self._watcher)
            async with self._stub() as stub:
                call = stub.WatchBudget(request)
                try:
                    async for message in call:
                        on_budget(budget_from_wire(message))
                finally:
                    call.cancel()  # after a bad message too, or the controller goes on sending

        self._spawn(self._retry("budget", watch))

    def start_announcing(self, replica: Replica, report: Callable[[], LoadReport]) -> None:
        """Register ``replica`` and stream its reports; again after every loss."""
        self._replica = replica
        self._spawn(self._retry("announce", lambda: self._announce_once(report)))

    def update(self, replica: Replica) -> None:
        """Announce a change of state or curve."""
        self._replica = replica
        self._announce.set()

    async def unregister(self) -> None:
        """Leave the fleet; an unreachable controller is left to notice by the lease."""
        # First the tasks: the controller ends the report stream of a replica that leaves, and
        # the announcing task would take that for a loss and register anew.
        await self._end_tasks()
        if self._replica is None:
            return
        request = control_pb2.UnregisterRequest(
            replica=self._replica.name, incarnation=self._replica.incarnation
        )
        with contextlib.suppress(grpc.RpcError):
            async with self._stub() as stub:
                await stub.Unregister(request, timeout=min(2.0, self._call_timeout_s))

    async def set_wanted(self, pool: PoolName, replicas: int, *, author: str, reason: str) -> int:
        """Ask for ``replicas`` in ``pool``; return the previous wish."""
        request = control_pb2.SetWantedReplicasRequest(
            pool=pool, replicas=replicas, author=author, reason=reason
        )
        async with self._stub() as stub:
            response = await stub.SetWantedReplicas(request, timeout=self._call_timeout_s)
        return response.previous_replicas

    async def close(self) -> None:
        """End every task and the channel."""
        await self._end_tasks()
        await self._channels.close()

    @contextlib.asynccontextmanager
    async def _stub(self) -> AsyncIterator["control_pb2_grpc.ControlServiceAsyncStub"]:
        async with self._channels.use(self._address) as channel:
            stub: control_pb2_grpc.ControlServiceAsyncStub = control_pb2_grpc.ControlServiceStub(
                channel
            )
            yield stub

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, loop: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(loop))

    async def _retry(self, what: str, attempt: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run ``attempt`` again whenever it ends, with back-off that a success resets."""
        loop = asyncio.get_running_loop()
        pause_s = _BACKOFF_FIRST_S
        while True:
            began_s = loop.time()
            try:
                await attempt()
            except grpc.aio.AioRpcError as error:
                self._say(what, error)
            except ValueError as error:
                log.warning("controller %s: bad message: %s", what, error)
            except asyncio.CancelledError:
                # A report or a registration inside the stream failed: grpc cancels the call.
                if told_to_stop():
                    raise
                log.info("controller %s: the stream was cancelled", what)
            if loop.time() - began_s > 5.0:
                pause_s = _BACKOFF_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_MAX_S)

    def _say(self, what: str, error: grpc.aio.AioRpcError) -> None:
        details = error.details() or ""
        problem = tls_problem(details, self._tls)
        if problem is not None and problem != self._warned:
            # No wait mends this one: aloud, and once for all of the link's loops.
            log.error("controller at %s: %s", self._address, explained(details, self._tls))
        self._warned = problem
        log.info("controller %s: %s %s", what, error.code().name, details)

    async def _watch_fleet(self) -> None:
        request = control_pb2.WatchFleetRequest(watcher=self._watcher, brief=True)
        async with self._stub() as stub:
            call = stub.WatchFleet(request)
            try:
                async for message in call:
                    self.fleet.set(fleet_from_wire(message))
            finally:
                call.cancel()

    async def _register(self, stub: "control_pb2_grpc.ControlServiceAsyncStub") -> float:
        assert self._replica is not None
        self._announce.clear()
        try:
            answer = await stub.Register(
                control_pb2.RegisterRequest(replica=replica_to_wire(self._replica)),
                timeout=self._call_timeout_s,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                self.refused = error.details() or "refused"
                log.error("controller refuses %s: %s", self._replica.name, self.refused)
            raise
        self.refused = None
        return answer.report_interval_seconds

    async def _announce_once(self, report: Callable[[], LoadReport]) -> None:
        async with self._stub() as stub:
            interval_s = await self._register(stub)

            async def reports() -> AsyncIterator[control_pb2.LoadReport]:
                while True:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._announce.wait(), interval_s)
                    if self._announce.is_set():
                        await self._register(stub)
                    yield load_report_to_wire(report())

            await stub.Report(reports())
