"""The network side of drafting, in a thread with an event loop of its own.

vLLM's worker is synchronous; it never waits for this thread but in ``steps``, up to the deadline.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from dspark.config.vllm import VllmSettings
from dspark.core.budget import Budget
from dspark.core.fleet import Compatibility, Fleet, Member, Replica, ReplicaState, Role
from dspark.core.ids import Incarnation, PoolName, ReplicaName, Term
from dspark.drafting.events import DraftEvent
from dspark.drafting.links import DrafterLinks
from dspark.rpc.control_client import ControllerLink
from dspark.rpc.credentials import open_credentials
from dspark.rpc.host import new_incarnation
from dspark.rpc.watch import Latest

log = logging.getLogger(__name__)

_START_S, _STOP_S = 10.0, 3.0


class DraftClient:
    """Links to every drafter of our projection, until ``close``.

    Args:
        settings: Which drafters, or which controller; files of TLS are read here.
        name: Of this engine, towards drafters and controller.
        compatibility: What drafters must agree on.
        post: Called in this thread with what happens on the drafters' side.
        on_budget: Called in this thread with every budget of our pool.
    """

    def __init__(
        self,
        settings: VllmSettings,
        *,
        name: str,
        compatibility: Compatibility,
        post: Callable[[DraftEvent], None],
        on_budget: Callable[[Budget], object],
    ) -> None:
        self._settings = settings
        self._name = name
        self._compatibility = compatibility
        self._post = post
        self._on_budget = on_budget
        self._credentials = open_credentials(settings.tls)
        self._links: DrafterLinks | None = None
        self._controller: ControllerLink | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="dspark-drafting", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_S)

    @property
    def port(self) -> DrafterLinks:
        """Where rounds and seeds go."""
        assert self._links is not None
        return self._links

    def close(self) -> None:
        """End every link; drafters free our sessions."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _start(self) -> None:
        fleet: Latest[Fleet]
        if self._settings.controller is None:
            fleet = Latest(_fixed_fleet(self._settings.drafters, self._compatibility))
        else:
            self._controller = ControllerLink(
                self._settings.controller, watcher=self._name, credentials=self._credentials
            )
            self._controller.start_watching_fleet()
            self._controller.start_watching_budget(self._settings.pool, self._on_budget)
            fleet = self._controller.fleet
        self._links = DrafterLinks(
            fleet,
            replica=self._name,
            incarnation=new_incarnation(),
            compatibility=self._compatibility,
            post=self._post,
            reconnect_s=self._settings.drafting.reconnect_s,
            credentials=self._credentials,
        )

    async def _stop(self) -> None:
        if self._links is not None:
            await self._links.close()
        if self._controller is not None:
            await self._controller.close()
        # What grpc itself still has under way must end before the loop does.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _fixed_fleet(addresses: tuple[str, ...], compatibility: Compatibility) -> Fleet:
    """A fleet of drafters that nobody watches; each says at the handshake who it is."""
    return Fleet(
        term=Term(0),
        version=1,
        members=tuple(
            Member(
                replica=Replica(
                    name=ReplicaName(address),
                    pool=PoolName("drafter"),
                    role=Role.DRAFTER,
                    address=address,
                    incarnation=Incarnation(0),
                    state=ReplicaState.READY,
                    compatibility=compatibility,
                )
            )
            for address in addresses
        ),
    )
