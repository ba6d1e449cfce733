"""Load: asks a cell's requests of a server, closed loop or open, never more than its bound."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Protocol

from dspark.bench.arms import Arm
from dspark.bench.record import Arrival, CellRecord, Counts, Piece, Served
from dspark.bench.schedule import Cell, Request

Clock = Callable[[], float]


class Server(Protocol):
    """Whatever generates."""

    def stream(self, arm: Arm, request: Request) -> AsyncGenerator[Piece]:
        """Yield what comes.

        Raises:
            ValueError: The request was refused.
            ConnectionError: The server is gone.
        """
        ...


async def run_cell(
    cell: Cell,
    server: Server,
    *,
    clock: Clock,
    timeout_s: float,
    answered: Callable[[], None],
) -> CellRecord:
    """Run one cell.

    Args:
        cell: What to ask.
        server: Whom to ask.
        clock: Monotonic seconds.
        timeout_s: Deadline of each request.
        answered: Called after each.

    Raises:
        TimeoutError: A request took longer.
        ValueError: The server refused one.
        ConnectionError: It is gone.
    """
    waiting = deque(cell.requests)
    served: list[Served] = []
    idle_s: list[float] = []
    began_s = clock()

    async def user() -> None:
        while waiting:
            request = waiting.popleft()
            asked_s = began_s + request.arrival_s
            if cell.load.rate_per_s is None:
                asked_s = clock()
            else:
                await asyncio.sleep(max(0.0, asked_s - clock()))
            served.append(await _ask(server, cell.arm, request, asked_s, clock, timeout_s))
            answered()
        idle_s.append(clock())

    # In an open loop these are not users but places in flight, each waiting for the next arrival.
    await _together(user, min(cell.load.concurrency, len(cell.requests)))
    return CellRecord(
        cell=cell,
        served=tuple(sorted(served, key=lambda one: one.index)),
        began_s=began_s,
        whole_until_s=min(idle_s) if cell.load.rate_per_s is None else max(idle_s),
    )


async def run_all(
    cells: Sequence[Cell],
    server: Server,
    *,
    clock: Clock,
    timeout_s: float,
    starting: Callable[[Cell], Coroutine[None, None, None]],
    answered: Callable[[], None],
    finished: Callable[[CellRecord], None],
) -> None:
    """Run cells one after the other; a failure ends the run after those that are finished."""
    for cell in cells:
        await starting(cell)
        record = await run_cell(cell, server, clock=clock, timeout_s=timeout_s, answered=answered)
        finished(record)


async def _ask(
    server: Server, arm: Arm, request: Request, asked_s: float, clock: Clock, timeout_s: float
) -> Served:
    arrivals: list[Arrival] = []
    token_ids: list[int] = []
    text: list[str] = []
    counts = Counts()
    try:
        async with asyncio.timeout(timeout_s), aclosing(server.stream(arm, request)) as pieces:
            async for piece in pieces:
                if piece.token_ids:
                    arrivals.append(Arrival(at_s=clock(), tokens=len(piece.token_ids)))
                    token_ids += piece.token_ids
                text.append(piece.text)
                counts = piece.counts or counts
    except TimeoutError:
        raise TimeoutError(
            f"a request of arm {arm.name} had {len(token_ids)} of {request.tokens} tokens after "
            f"{timeout_s:g} s: raise --timeout or lower --tokens"
        ) from None
    if not token_ids:
        raise ConnectionError(f"a request of arm {arm.name} ended without a token")
    return Served(
        index=request.index,
        asked_s=asked_s,
        arrivals=tuple(arrivals),
        token_ids=tuple(token_ids),
        text="".join(text),
        counts=counts,
    )


async def _together(user: Callable[[], Coroutine[None, None, None]], count: int) -> None:
    """Run ``count`` users; the first failure cancels the others and is the one raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(user())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
