import asyncio
from collections.abc import AsyncGenerator

import pytest

from dspark.gateway.interleave import interleave


class Counting:
    """Streams that know whether they were closed."""

    def __init__(self) -> None:
        self.closed = 0

    async def stream(self, items: int, *, fails: bool = False) -> AsyncGenerator[int, None]:
        try:
            for item in range(items):
                await asyncio.sleep(0)
                yield item
            if fails:
                raise ValueError("broken")
        finally:
            self.closed += 1


async def test_every_item_of_every_stream_comes_in_its_order() -> None:
    streams = Counting()
    got = [pair async for pair in interleave([streams.stream(3), streams.stream(2)])]
    assert [item for index, item in got if index == 0] == [0, 1, 2]
    assert [item for index, item in got if index == 1] == [0, 1]
    assert streams.closed == 2


async def test_the_first_failure_ends_all() -> None:
    streams = Counting()
    with pytest.raises(ValueError, match="broken"):
        _ = [pair async for pair in interleave([streams.stream(1, fails=True),
                                                streams.stream(10**9)])]  # fmt: skip
    assert streams.closed == 2


async def test_closing_early_closes_every_stream() -> None:
    streams = Counting()
    both = interleave([streams.stream(10**9), streams.stream(10**9)])
    await anext(both)
    await both.aclose()
    assert streams.closed == 2


async def test_one_stream_comes_as_it_is_and_is_closed_with_the_reader() -> None:
    streams = Counting()
    assert [pair async for pair in interleave([streams.stream(2)])] == [(0, 0), (0, 1)]
    early = interleave([streams.stream(10**9)])
    await anext(early)
    await early.aclose()
    with pytest.raises(ValueError, match="broken"):
        _ = [pair async for pair in interleave([streams.stream(1, fails=True)])]
    assert streams.closed == 3
