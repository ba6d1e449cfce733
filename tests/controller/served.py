"""A controller with a small fleet, its control API behind real HTTP, in a thread of its own."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from dspark.config.controller import ControllerSettings
from dspark.controller.api.app import ControlApi
from dspark.controller.api.tokens import Tokens
from dspark.controller.loop import Controller
from dspark.controller.store import MemoryStore
from dspark.core.fleet import Role
from dspark.rpc.http import HttpServer, bind
from tests.fleet_examples import a_curve, a_replica, a_report

KNEE = a_curve({4: 0.010, 8: 0.011, 16: 0.040}, version="knee")


def a_controller(settings: ControllerSettings) -> Controller:
    """One verifier with a curve and forty known rounds, and one drafter."""
    controller = Controller(settings, MemoryStore())
    controller.register(a_replica("v0", curve=KNEE), 0.0)
    controller.register(a_replica("d0", Role.DRAFTER), 0.0)
    rounds = [(0.9, 0.8, 0.7)] * 40
    controller.report(a_report("v0", active=4, survivals=rounds, draft_round_s=0.001), 0.0)
    controller.tick(0.0, unix_s=0.0)
    return controller


async def _ticking(controller: Controller, api: ControlApi) -> None:
    """Plan and sample on the clock of the last report: nobody's lease ends."""
    while True:
        controller.tick(0.0, unix_s=time.time())
        api.trend.sample(controller, now_s=0.0, unix_s=time.time())
        await asyncio.sleep(0.2)


@contextmanager
def served_api(controller: Controller, *, live: bool = False) -> Iterator[str]:
    """Serve its control API; yield the URL.

    With ``live`` the controller also plans, as it does in a process of its own.
    """
    api = ControlApi(controller, Tokens(controller.settings.api_tokens))
    with bind("127.0.0.1", 0, what="a test") as sock:
        server = HttpServer(
            uvicorn.Config(api.app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        )

        async def serve() -> None:
            ticking = asyncio.create_task(_ticking(controller, api)) if live else None
            await server.serve(sockets=[sock])
            if ticking is not None:
                ticking.cancel()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            api.stopping.set()
            server.should_exit = True
            thread.join(timeout=10.0)
