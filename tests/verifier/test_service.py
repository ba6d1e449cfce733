"""Generate over real gRPC: tokens, codes, and what a client that goes away leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from dspark.config.endpoint import EndpointSettings
from dspark.core.ids import Incarnation
from dspark.core.sampling import Sampling
from dspark.rpc.channel import open_channel
from dspark.rpc.handshake import Greeter
from dspark.rpc.server import RpcServer
from dspark.verifier.service import Outbox, VerifyService
from dspark.wire.fleet import compatibility_to_wire
from dspark.wire.v1 import common_pb2, verify_pb2, verify_pb2_grpc
from tests.drafter.serving import PAIR
from tests.fakes import VOCAB, continuation
from tests.verifier.harness import GAMMA, System, running

SAMPLED = common_pb2.Sampling(temperature=0.5, seed=3, choice=1)


class Client:
    def __init__(self, system: System, stub: "verify_pb2_grpc.VerifyServiceAsyncStub") -> None:
        self.system = system
        self.stub = stub

    async def all(
        self, request: verify_pb2.GenerateRequest
    ) -> tuple[list[int], verify_pb2.GenerateResponse]:
        """Read a stream to its end: all tokens, and the last message."""
        tokens: list[int] = []
        last = verify_pb2.GenerateResponse()
        async for message in self.stub.Generate(request, timeout=20.0):
            assert last.finish_reason == verify_pb2.FINISH_REASON_UNSPECIFIED
            tokens.extend(message.token_ids)
            last = message
        return tokens, last

    async def refused(self, request: verify_pb2.GenerateRequest) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await self.all(request)
        code = refusal.value.code()
        assert isinstance(code, grpc.StatusCode)
        return code


@asynccontextmanager
async def client(**settings: float) -> AsyncIterator[Client]:
    with running(System(**settings)) as system:  # type: ignore[arg-type]
        server = RpcServer(EndpointSettings(), ["verify"])
        greeter = Greeter(PAIR, replica="v1", incarnation=Incarnation(9))
        service = VerifyService(system.engine, greeter)
        server.add(lambda it: verify_pb2_grpc.add_VerifyServiceServicer_to_server(service, it))
        address = await server.start()
        async with open_channel(address) as channel:
            yield Client(system, verify_pb2_grpc.VerifyServiceStub(channel))
        await server.stop(0)


def ask(
    prompt: list[int],
    count: int,
    *,
    committed: list[int] | None = None,
    sampling: common_pb2.Sampling = SAMPLED,
    stops: list[int] | None = None,
    speculate: bool = True,
    max_draft_tokens: int = 0,
    trace: bool = False,
) -> verify_pb2.GenerateRequest:
    return verify_pb2.GenerateRequest(
        request_id="r",
        prompt_token_ids=prompt,
        committed_token_ids=committed or [],
        max_new_tokens=count,
        sampling=sampling,
        stop_token_ids=stops or [],
        speculation=verify_pb2.GenerateRequest.Speculation(
            enabled=speculate, max_draft_tokens=max_draft_tokens, trace=trace
        ),
    )


EXPECTED = continuation([1, 2, 3], 60, Sampling(temperature=0.5, seed=3, choice=1))


async def test_the_handshake_says_who_is_there() -> None:
    async with client() as it:
        answer = await it.stub.Handshake(
            common_pb2.HandshakeRequest(compatibility=compatibility_to_wire(PAIR))
        )
        assert (answer.replica, answer.incarnation) == ("v1", 9)


async def test_tokens_stream_and_the_last_message_has_the_reason_and_the_counts() -> None:
    async with client() as it:
        it.system.add_drafter("d1")
        tokens, last = await it.all(ask([1, 2, 3], 60))
        assert tokens == EXPECTED
        assert last.finish_reason == verify_pb2.FINISH_REASON_LENGTH
        stats = last.stats
        assert stats.steps == stats.drafted_steps + stats.plain_steps
        assert len(stats.accepted_histogram) == GAMMA + 1
        assert sum(stats.accepted_histogram) == stats.steps
        assert stats.accepted_draft_tokens <= stats.verified_draft_tokens <= stats.drafted_tokens


async def test_speculation_may_be_switched_off_or_capped_and_changes_no_token() -> None:
    async with client() as it:
        it.system.add_drafter("d1")
        plain, off = await it.all(ask([1, 2, 3], 60, speculate=False))
        capped, two = await it.all(ask([1, 2, 3], 60, max_draft_tokens=2))
        assert plain == capped == EXPECTED
        assert (off.stats.drafted_tokens, off.stats.row_bytes) == (0, 0)
        assert sum(two.stats.accepted_histogram[3:]) == 0


@pytest.mark.parametrize("trace", [False, True])
async def test_drafts_ride_along_only_where_a_trace_is_asked_for(trace: bool) -> None:
    async with client() as it:
        it.system.add_drafter("d1")
        tokens, drafts = [], []
        async for message in it.stub.Generate(ask([1, 2, 3], 60, trace=trace), timeout=20.0):
            tokens.extend(message.token_ids)
            drafts.append(message.HasField("draft"))
        assert tokens == EXPECTED
        assert any(drafts) is trace


async def test_a_stop_token_ends_the_stream() -> None:
    async with client() as it:
        stop = EXPECTED[7]
        tokens, last = await it.all(ask([1, 2, 3], 60, stops=[stop]))
        assert tokens == EXPECTED[: EXPECTED.index(stop) + 1]
        assert last.finish_reason == verify_pb2.FINISH_REASON_STOP


async def test_logprobs_come_one_a_token() -> None:
    async with client() as it:
        request = verify_pb2.GenerateRequest(
            prompt_token_ids=[5, 6], max_new_tokens=9, sampling=SAMPLED, top_logprobs=1
        )
        got = []
        async for message in it.stub.Generate(request, timeout=20.0):
            assert len(message.logprobs) == len(message.token_ids)
            got += [(-each.logprob, *each.top_token_ids) for each in message.logprobs]
        expected = continuation([5, 6], 9, Sampling(temperature=0.5, seed=3, choice=1))
        assert got == [(token, token) for token in expected]


async def test_a_grammar_that_cannot_be_followed_is_aborted() -> None:
    async with client() as it:
        it.system.target.gives_up_after = 3
        request = verify_pb2.GenerateRequest(
            prompt_token_ids=[5, 6], max_new_tokens=30, sampling=SAMPLED, stop_token_ids=[VOCAB],
            logit_rules=verify_pb2.LogitRules(regex="a+"),
        )  # fmt: skip
        assert await it.refused(request) is grpc.StatusCode.ABORTED
        request.logit_rules.presence_penalty = 3.0
        assert await it.refused(request) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_goes_on_after_tokens_that_were_delivered_elsewhere() -> None:
    async with client() as it:
        tokens, _ = await it.all(ask([1, 2, 3], 60, committed=EXPECTED[:25]))
        assert tokens == EXPECTED[25:]


@pytest.mark.parametrize(
    "wrong",
    [
        ask([], 5),
        ask([1], 0),
        ask([1], 2, committed=[1, 2]),
        ask([VOCAB], 5),
        ask([1], 5, sampling=common_pb2.Sampling(temperature=3.0)),
        ask([1], 5, sampling=common_pb2.Sampling(temperature=float("nan"))),
        ask([1], 5, sampling=common_pb2.Sampling(top_p=1.5)),
        ask([1], 5, sampling=common_pb2.Sampling(seed=2**63)),
    ],
)
async def test_what_makes_no_sense_is_an_invalid_argument(
    wrong: verify_pb2.GenerateRequest,
) -> None:
    async with client() as it:
        assert await it.refused(wrong) is grpc.StatusCode.INVALID_ARGUMENT
        assert it.system.engine.num_open == 0
        tokens, _ = await it.all(ask([1, 2, 3], 60))
        assert tokens == EXPECTED


async def test_what_never_fits_and_what_does_not_fit_now_have_codes_of_their_own() -> None:
    async with client(num_pages=32, max_sessions=1, max_waiting=0, step_s=0.002) as it:
        assert await it.refused(ask([1], 200)) is grpc.StatusCode.OUT_OF_RANGE
        running_one = it.stub.Generate(ask([1], 120))
        await running_one.read()
        assert await it.refused(ask([1], 5)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        running_one.cancel()


async def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async with client(step_s=0.02) as it:
        drafter = it.system.add_drafter("d1")
        calls = [it.stub.Generate(ask([seed], 500)) for seed in range(3)]
        for call in calls:
            await call.read()
            call.cancel()
        async with asyncio.timeout(10.0):
            while it.system.engine.num_open or drafter.num_sessions:  # noqa: ASYNC110 - a thread
                await asyncio.sleep(0.005)
        pages = it.system.engine.intake.pages
        assert pages.free_pages == pages.num_pages


async def test_a_verifier_that_stops_ends_its_streams_as_unavailable() -> None:
    async with client(step_s=0.002) as it:
        call = it.stub.Generate(ask([1], 900))
        await call.read()

        async def rest() -> None:
            while await call.read():
                pass

        await asyncio.to_thread(it.system.engine.stop)
        with pytest.raises(grpc.aio.AioRpcError, match="the verifier stopped") as refusal:
            await rest()
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await it.refused(ask([1], 5)) is grpc.StatusCode.UNAVAILABLE


async def test_a_steps_events_reach_their_streams_in_order_by_one_wake_up() -> None:
    class Loop:
        def __init__(self) -> None:
            self.woken: list[Callable[[], None]] = []

        def call_soon_threadsafe(self, deliver: Callable[[], None]) -> None:
            self.woken.append(deliver)

    loop, outbox = Loop(), Outbox()
    outbox.attach(loop)  # type: ignore[arg-type]
    outbox.flush()
    assert not loop.woken  # nothing waits
    first: asyncio.Queue[verify_pb2.GenerateResponse] = asyncio.Queue()
    second: asyncio.Queue[verify_pb2.GenerateResponse] = asyncio.Queue()
    events = [verify_pb2.GenerateResponse(token_ids=[token]) for token in range(4)]
    for stream, event in zip((first, second, first), events, strict=False):
        outbox.put(stream, event)  # type: ignore[arg-type]
    assert not loop.woken
    outbox.flush()
    outbox.flush()
    (deliver,) = loop.woken
    assert first.empty()
    deliver()
    assert [first.get_nowait(), first.get_nowait()] == [events[0], events[2]]
    assert second.get_nowait() == events[1]
    outbox.put(second, events[3])  # type: ignore[arg-type]
    outbox.flush()
    loop.woken[1]()  # what comes after a delivery wakes anew
    assert second.get_nowait() == events[3]
