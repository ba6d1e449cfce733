import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from dspark.core.fleet import Fleet, Replica
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.core.session import FinishReason
from dspark.gateway.errors import ApiError
from dspark.gateway.routed import RoutedGeneration, TokenBatch
from dspark.gateway.sessions import Sessions
from dspark.gateway.verifiers import Refusal, VerifierLost, VerifierRefused
from dspark.rpc.watch import Latest
from tests.gateway.fakes import fleet_of, member

TOKENS = tuple(range(100, 110))
LOST = VerifierLost("unavailable", "gone")
FULL = VerifierRefused(Refusal.FULL, "queue is full")


@dataclass
class ScriptedVerifiers:
    """By replica name: the tokens of each message, and errors in between, call after call."""

    scripts: dict[str, list[list[int | Exception]]]
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    incarnations: list[int] = field(default_factory=list)
    closed: int = 0

    async def generate(
        self, replica: Replica, routed: RoutedGeneration, timeout_s: float
    ) -> AsyncGenerator[TokenBatch, None]:
        committed = routed.generation.committed
        self.calls.append((replica.name, committed))
        self.incarnations.append(replica.incarnation)
        script = self.scripts[replica.name]
        actions = script.pop(0) if len(script) > 1 else script[0]
        position = len(committed)
        try:
            for action in actions:
                if isinstance(action, Exception):
                    raise action
                end = min(position + action, len(TOKENS))
                yield TokenBatch(token_ids=TOKENS[position:end])
                position = end
            if position == len(TOKENS):
                yield TokenBatch(token_ids=(), finish=FinishReason.LENGTH)
        finally:
            self.closed += 1


def sessions(
    verifiers: ScriptedVerifiers, fleet: Fleet | None, *, wait_s: float = 5.0, attempts: int = 3
) -> tuple[Sessions, Latest[Fleet]]:
    latest = Latest(fleet)
    return (
        Sessions(
            fleet=latest,
            verifiers=verifiers,
            failover_attempts=attempts,
            wait_for_verifier_s=wait_s,
        ),
        latest,
    )


def routed(*, timeout_s: float = 30.0) -> RoutedGeneration:
    generation = Generation(
        request_id="r", prompt=(1, 2), max_new_tokens=len(TOKENS), sampling=Sampling()
    )
    return RoutedGeneration(generation=generation, model="toy", timeout_s=timeout_s)


async def collect(running: Sessions, request: RoutedGeneration) -> tuple[int, ...]:
    batches = [batch async for batch in running.generate(request)]
    assert batches[-1].finish is FinishReason.LENGTH
    return tuple(token for batch in batches for token in batch.token_ids)


async def test_a_stream_goes_on_elsewhere_with_no_token_lost_or_repeated() -> None:
    fake = ScriptedVerifiers({"a": [[2, 1, LOST]], "b": [[4, LOST]], "c": [[99]]})
    running, _ = sessions(fake, fleet_of(member("a"), member("b"), member("c")))
    assert await collect(running, routed()) == TOKENS
    assert fake.calls == [("a", ()), ("b", TOKENS[:3]), ("c", TOKENS[:7])]
    assert fake.closed == 3


async def test_a_stream_that_ends_without_a_finish_goes_on_elsewhere() -> None:
    fake = ScriptedVerifiers({"a": [[2]], "b": [[99]]})
    running, _ = sessions(fake, fleet_of(member("a"), member("b")))
    assert await collect(running, routed()) == TOKENS


async def test_the_next_life_of_the_same_replica_is_used_as_soon_as_it_is_announced() -> None:
    fake = ScriptedVerifiers({"a": [[5, LOST], [99]]})
    running, latest = sessions(fake, fleet_of(member("a")))
    request = asyncio.create_task(collect(running, routed()))
    await asyncio.sleep(0.05)
    latest.set(fleet_of(member("a", incarnation=2), version=2))
    assert await request == TOKENS
    assert fake.incarnations == [1, 2]


async def test_a_replica_that_only_stumbled_is_asked_again() -> None:
    fake = ScriptedVerifiers({"a": [[5, LOST], [LOST], [99]]})
    running, _ = sessions(fake, fleet_of(member("a")), attempts=2)
    assert await collect(running, routed()) == TOKENS


async def test_losing_too_many_verifiers_ends_the_stream_with_an_error() -> None:
    fake = ScriptedVerifiers({"a": [[1, LOST]], "b": [[1, LOST]], "c": [[99]]})
    running, _ = sessions(fake, fleet_of(member("a"), member("b"), member("c")), attempts=2)
    with pytest.raises(ApiError, match="2 verifiers were lost") as caught:
        await collect(running, routed())
    assert caught.value.status == 503
    assert running._in_flight.total() == 0


async def test_a_stream_looks_for_another_verifier_for_a_bounded_time() -> None:
    fake = ScriptedVerifiers({"a": [[3, LOST], [LOST]]})
    running, _ = sessions(fake, fleet_of(member("a")), wait_s=0.7)
    with pytest.raises(ApiError, match=r"within 0\.7 s") as caught:
        await collect(running, routed())
    assert caught.value.status == 503
    assert len(fake.calls) <= 2


async def test_a_token_that_was_the_last_one_needs_no_other_verifier() -> None:
    fake = ScriptedVerifiers({"a": [[10, LOST]]})
    running, _ = sessions(fake, fleet_of(member("a")))
    assert await collect(running, routed()) == TOKENS
    assert len(fake.calls) == 1


async def test_a_full_verifier_is_passed_over() -> None:
    fake = ScriptedVerifiers({"a": [[FULL]], "b": [[99]]})
    running, _ = sessions(fake, fleet_of(member("a"), member("b")))
    assert await collect(running, routed()) == TOKENS


async def test_all_verifiers_full_is_an_overload_at_once() -> None:
    fake = ScriptedVerifiers({"a": [[FULL]], "b": [[FULL]]})
    running, _ = sessions(fake, fleet_of(member("a"), member("b")))
    with pytest.raises(ApiError, match="queue is full") as caught:
        await collect(running, routed())
    assert caught.value.status == 429
    assert caught.value.headers() == {"retry-after": "1"}
    assert len(fake.calls) == 2


async def test_a_started_stream_waits_for_room() -> None:
    fake = ScriptedVerifiers({"a": [[5, LOST]], "b": [[FULL], [99]]})
    running, latest = sessions(fake, fleet_of(member("a"), member("b")))
    request = asyncio.create_task(collect(running, routed()))
    await asyncio.sleep(0.05)
    latest.set(fleet_of(member("b"), version=2))
    assert await request == TOKENS


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(Refusal.NEVER_FITS, 400), (Refusal.BAD_REQUEST, 400), (Refusal.FAILED, 500),
     (Refusal.TIMED_OUT, 504)],
)  # fmt: skip
async def test_other_refusals_reach_the_client_in_the_verifiers_words(
    refusal: Refusal, status: int
) -> None:
    fake = ScriptedVerifiers({"a": [[VerifierRefused(refusal, "needs 9 pages of 5")]]})
    running, _ = sessions(fake, fleet_of(member("a"), member("b")))
    with pytest.raises(ApiError, match="needs 9 pages of 5") as caught:
        await collect(running, routed())
    assert caught.value.status == status


@pytest.mark.parametrize("fleet", [None, fleet_of()])
async def test_without_a_verifier_a_new_request_is_refused_at_once(fleet: Fleet | None) -> None:
    running, _ = sessions(ScriptedVerifiers({}), fleet)
    assert not running.ready
    with pytest.raises(ApiError) as caught:
        await collect(running, routed())
    assert caught.value.status == 503
    assert caught.value.headers() == {"retry-after": "2"}


async def test_closing_a_stream_closes_the_call() -> None:
    fake = ScriptedVerifiers({"a": [[1, 1, 1]]})
    running, _ = sessions(fake, fleet_of(member("a")))
    stream = running.generate(routed())
    await anext(stream)
    await stream.aclose()
    assert fake.closed == 1
    assert running._in_flight.total() == 0
