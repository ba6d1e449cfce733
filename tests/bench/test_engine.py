from collections.abc import Iterator
from dataclasses import dataclass

from dspark.bench.arms import Place, across, parse_arm
from dspark.bench.engine import Engine, EngineServer
from dspark.bench.record import Counts
from dspark.core.generation import Generation, GenerationStats
from tests.bench.examples import a_request


@dataclass(frozen=True)
class Ended:
    stats: GenerationStats


APART: Place = ("disaggregated", 0.0)
TOGETHER: Place = ("colocated", 0.0)


class FakeEngine:
    """Continues with its own number, and remembers what it was asked."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[Generation] = []

    def stream(self, generation: Generation) -> Iterator[tuple[int, ...] | Ended]:
        self.asked.append(generation)
        yield (self.number, *generation.prompt)
        stats = GenerationStats(block_size=2)
        stats.count(drafted=2, verified=2, accepted=1)
        yield Ended(stats)


async def ask(server: EngineServer, arm: str) -> tuple[list[int], Counts | None]:
    tokens: list[int] = []
    counts = None
    async for piece in server.stream(parse_arm(arm), a_request()):
        tokens += piece.token_ids
        counts = piece.counts or counts
    return tokens, counts


async def test_adaptive_has_an_engine_of_its_own_and_the_other_arms_share_one() -> None:
    plain, adaptive = FakeEngine(1), FakeEngine(2)
    engines: dict[tuple[Place, bool], Engine] = {
        (APART, False): plain,
        (APART, True): adaptive,
    }
    server = EngineServer(engines, lambda text: [7, 8], max_requests=2)
    assert await ask(server, "adaptive") == (
        [2, 7, 8],
        Counts(steps=1, drafted_steps=1, drafted_tokens=2, verified_tokens=2, accepted_tokens=1),
    )
    assert (await ask(server, "off"))[0] == [1, 7, 8]
    assert (await ask(server, "fixed:3"))[0] == [1, 7, 8]
    off, fixed = plain.asked
    assert (off.speculate, off.max_draft_tokens) == (False, 0)
    assert (fixed.speculate, fixed.max_draft_tokens) == (True, 3)
    assert fixed.max_new_tokens == 4


async def test_an_arm_is_asked_of_its_place() -> None:
    apart, together = FakeEngine(1), FakeEngine(2)
    engines: dict[tuple[Place, bool], Engine] = {
        (APART, False): apart,
        (TOGETHER, False): together,
    }
    server = EngineServer(engines, lambda text: [7], max_requests=1)
    for arm in across((parse_arm("off"), parse_arm("fixed:3")), ("disaggregated", "colocated")):
        async for _ in server.stream(arm, a_request()):
            pass
    assert [one.speculate for one in apart.asked] == [True]
    assert [one.speculate for one in together.asked] == [False, True]
