import asyncio

from dspark.controller.events import KEPT, Event, Events, conditions_changed
from dspark.core.ids import PoolName


async def take(events: Events, after: int, count: int) -> list[Event]:
    taken: list[Event] = []
    async with asyncio.timeout(5.0):
        async for event in events.listen(after):
            taken.append(event)
            if len(taken) == count:
                break
    return taken


async def test_a_listener_gets_what_it_missed_and_then_what_comes() -> None:
    events = Events()
    events.publish("policy", "verifier", "first")
    events.publish("budget", "verifier", "second")
    listening = asyncio.create_task(take(events, 1, 2))
    await asyncio.sleep(0)
    events.publish("budget", "verifier", "third")
    assert [event.text for event in await listening] == ["second", "third"]


async def test_a_slow_listener_loses_the_oldest_and_nobody_waits_for_it() -> None:
    events = Events()
    for i in range(KEPT + 10):
        events.publish("budget", "verifier", f"{i}")
    first, *_ = await take(events, 0, 3)
    assert first.number == 11, "the gap in the numbers tells it"


def test_conditions_come_and_go() -> None:
    a, b = PoolName("a"), PoolName("b")
    before, after = {a: ("X: x", "Y: y")}, {a: ("Y: y", "Z: z"), b: ("X: x",)}
    assert conditions_changed(before, after) == [
        (a, "Z: z"), (a, "over: X: x"), (b, "X: x"),
    ]  # fmt: skip
