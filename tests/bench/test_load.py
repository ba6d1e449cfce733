import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from dspark.bench.arms import Arm
from dspark.bench.load import run_all, run_cell
from dspark.bench.loads import Load
from dspark.bench.record import CellRecord, Counts, Piece
from dspark.bench.schedule import Cell, Request
from tests.bench.examples import a_cell, a_request


@dataclass
class FakeServer:
    """Answers at once, unless told to wait or to fail; counts who is in flight."""

    stuck: bool = False
    failing: int | None = None
    in_flight: int = 0
    most: int = 0
    asked: list[int] = field(default_factory=list)

    async def stream(self, arm: Arm, request: Request) -> AsyncGenerator[Piece]:
        self.asked.append(request.index)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            if request.index == self.failing:
                raise ConnectionError("the server is gone")
            yield Piece(token_ids=(request.index,), text="a")
            await asyncio.sleep(3600 if self.stuck else 0)
            yield Piece(token_ids=(1, 2), text="b")
            yield Piece(counts=Counts(steps=3))
        finally:
            self.in_flight -= 1


class Ticks:
    """A clock that moves by one second each time it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


async def run(cell: Cell, server: FakeServer, *, timeout_s: float = 5.0) -> CellRecord:
    return await run_cell(cell, server, clock=Ticks(), timeout_s=timeout_s, answered=lambda: None)


async def nothing(cell: Cell) -> None:
    pass


async def test_every_request_is_asked_once_and_recorded_in_order() -> None:
    server = FakeServer()
    record = await run(a_cell(load=3, requests=7), server)
    assert sorted(server.asked) == list(range(7))
    assert [one.index for one in record.served] == list(range(7))
    one = record.served[4]
    assert (one.token_ids, one.text) == ((4, 1, 2), "ab")
    assert [arrival.tokens for arrival in one.arrivals] == [1, 2]
    assert one.counts == Counts(steps=3)


async def test_never_more_users_than_the_load_has() -> None:
    server = FakeServer()
    await run(a_cell(load=3, requests=12), server)
    assert server.most == 3


async def test_the_load_is_whole_until_the_first_user_has_nothing_left() -> None:
    record = await run(a_cell(load=2, requests=3), FakeServer())
    ends_s = sorted(one.arrivals[-1].at_s for one in record.served)
    assert ends_s[0] < record.whole_until_s
    assert record.began_s < record.whole_until_s


async def test_in_an_open_loop_waiting_counts_from_the_arrival() -> None:
    requests = tuple(a_request(index) for index in range(4))
    cell = Cell(
        repeat=0, load=Load(concurrency=2, rate_per_s=1e6), arm=a_cell().arm, requests=requests
    )
    server = FakeServer()
    record = await run(cell, server)
    assert server.most == 2
    assert {one.asked_s for one in record.served} == {record.began_s}
    assert record.whole_until_s >= max(one.arrivals[-1].at_s for one in record.served)


async def test_a_request_past_its_deadline_ends_the_run_and_says_what_to_do() -> None:
    server = FakeServer(stuck=True)
    with pytest.raises(TimeoutError, match=r"1 of 4 tokens after 0\.01 s: raise --timeout"):
        await run(a_cell(load=2, requests=2), server, timeout_s=0.01)
    assert server.in_flight == 0


async def test_the_first_failure_cancels_the_other_users_and_is_raised_itself() -> None:
    server = FakeServer(stuck=True, failing=1)
    with pytest.raises(ConnectionError, match="the server is gone"):
        await run(a_cell(load=3, requests=3), server)
    assert server.in_flight == 0


async def test_what_ended_before_a_failure_is_kept() -> None:
    finished: list[str] = []
    with pytest.raises(ConnectionError):
        await run_all(
            [a_cell("off", requests=1), a_cell("adaptive", requests=2)],
            FakeServer(failing=1),
            clock=Ticks(),
            timeout_s=5.0,
            starting=nothing,
            answered=lambda: None,
            finished=lambda record: finished.append(record.cell.arm.name),
        )
    assert finished == ["off"]
