import asyncio

from dspark.rpc.watch import Latest


async def test_a_watcher_sees_the_present_value_at_once() -> None:
    latest = Latest(3)
    assert latest.value == 3
    assert await anext(aiter(latest.watch())) == 3


async def test_a_watcher_waits_for_the_first_value() -> None:
    latest: Latest[int] = Latest()
    watch = aiter(latest.watch())
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    assert not first.done()
    latest.set(1)
    assert await first == 1


async def test_a_slow_watcher_skips_to_the_newest() -> None:
    latest = Latest(0)
    watch = aiter(latest.watch())
    await anext(watch)
    for value in (1, 2, 3):
        latest.set(value)
    assert await anext(watch) == 3
    following = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    assert not following.done()
    latest.set(4)
    assert await following == 4


async def test_every_watcher_sees_every_newest_value() -> None:
    latest: Latest[int] = Latest()
    watches = [aiter(latest.watch()) for _ in range(3)]
    waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
    await asyncio.sleep(0)
    latest.set(7)
    assert await asyncio.gather(*waiting) == [7, 7, 7]


async def test_the_same_value_set_again_is_news() -> None:
    latest = Latest(1)
    watch = aiter(latest.watch())
    await anext(watch)
    latest.set(1)
    assert await asyncio.wait_for(anext(watch), 5.0) == 1
