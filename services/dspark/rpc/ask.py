"""One question to the controller, from code that has no event loop: a command, a supervisor."""

import asyncio

import grpc

from dspark.core.fleet import Fleet
from dspark.core.ids import PoolName
from dspark.rpc.control_client import ControllerLink


def fleet_snapshot(controller: str, *, timeout_s: float) -> Fleet:
    """Return the fleet as the controller sees it now.

    Raises:
        ConnectionError: The controller did not answer in time.
    """

    async def ask() -> Fleet:
        link = ControllerLink(controller, watcher="cli", call_timeout_s=timeout_s)
        link.start_watching_fleet()
        try:
            async with asyncio.timeout(timeout_s):
                async for fleet in link.fleet.watch():
                    return fleet
        except TimeoutError:
            pass
        finally:
            await link.close()
        raise ConnectionError(f"the controller at {controller} does not answer")

    return asyncio.run(ask())


def ask_for_replicas(
    controller: str, pool: str, replicas: int, *, author: str, reason: str, timeout_s: float
) -> int:
    """Set a pool's wanted replicas; return the previous wish.

    Raises:
        ConnectionError: The controller did not answer in time.
        ValueError: It refused, for instance because it knows no such pool.
    """

    async def ask() -> int:
        link = ControllerLink(controller, watcher="cli", call_timeout_s=timeout_s)
        try:
            return await link.set_wanted(PoolName(pool), replicas, author=author, reason=reason)
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise ConnectionError(f"the controller at {controller} does not answer") from None
            raise ValueError(f"the controller refuses: {error.details()}") from None
        finally:
            await link.close()

    return asyncio.run(ask())
