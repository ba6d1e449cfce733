from pathlib import Path

import grpc
import pytest
from grpc import aio

from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.gateway.routed import RoutedGeneration
from dspark.gateway.verifiers import (
    GrpcVerifiers,
    Refusal,
    VerifierLost,
    VerifierRefused,
    failure,
    request_to_wire,
)
from dspark.rpc.credentials import Credentials
from tests.gateway.fakes import FakeVerifier, member, serving
from tests.rpc.pki import Pki

ROUTED = RoutedGeneration(
    generation=Generation(
        request_id="r",
        prompt=(1, 2),
        committed=(7,),
        max_new_tokens=9,
        sampling=Sampling(temperature=0.5, seed=2**62, choice=3),
        stop_tokens=frozenset({5, 4}),
        speculate=False,
        max_draft_tokens=2,
        priority=-3,
    ),
    model="toy",
)


def ended(code: grpc.StatusCode, message: str = "words") -> VerifierLost | VerifierRefused:
    return failure(aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=message))


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"])
def test_a_broken_call_is_a_lost_verifier(code: str) -> None:
    error = ended(grpc.StatusCode[code])
    assert isinstance(error, VerifierLost)
    assert error.cause == code.lower()


@pytest.mark.parametrize(
    ("code", "message", "refusal"),
    [
        ("RESOURCE_EXHAUSTED", "64 sessions are open or waiting already", Refusal.FULL),
        ("OUT_OF_RANGE", "300 tokens, more than the 200 that fit here", Refusal.NEVER_FITS),
        ("INVALID_ARGUMENT", "words", Refusal.BAD_REQUEST),
        ("DEADLINE_EXCEEDED", "words", Refusal.TIMED_OUT),
        ("FAILED_PRECONDITION", "words", Refusal.FAILED),
    ],
)
def test_an_answer_in_words_is_a_refusal(code: str, message: str, refusal: Refusal) -> None:
    error = ended(grpc.StatusCode[code], message)
    assert isinstance(error, VerifierRefused)
    assert (error.refusal, error.message) == (refusal, message)


def test_everything_of_a_request_is_sent() -> None:
    sent = request_to_wire(ROUTED)
    assert list(sent.prompt_token_ids) == [1, 2]
    assert list(sent.committed_token_ids) == [7]
    assert list(sent.stop_token_ids) == [4, 5]
    assert (sent.max_new_tokens, sent.model) == (9, "toy")
    assert (sent.sampling.seed, sent.sampling.choice) == (2**62, 3)
    assert sent.priority == -3
    assert (sent.speculation.enabled, sent.speculation.max_draft_tokens) == (False, 2)


async def test_a_verifier_that_is_not_there_is_lost() -> None:
    calls = GrpcVerifiers()
    with pytest.raises(VerifierLost, match="127"):
        await anext(calls.generate(member("a", "127.0.0.1:1").replica, ROUTED, 5.0))
    await calls.close()


async def test_idle_channels_to_verifiers_that_left_are_closed() -> None:
    fake = FakeVerifier(lambda choice: [7, 8, 9], chunk_tokens=1)
    async with serving(fake) as members:
        calls = GrpcVerifiers()
        stream = calls.generate(members[0].replica, ROUTED, 5.0)
        assert (await anext(stream)).token_ids == (8,)
        await calls.keep(set())
        assert [batch.token_ids async for batch in stream] == [(9,), ()]
        await calls.keep(set())
        assert len(calls._channels) == 0


async def test_why_tls_fails_is_for_the_log_and_not_for_clients(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeVerifier(lambda choice: [7], chunk_tokens=1)
    async with serving(fake) as members:  # in plaintext
        calls = GrpcVerifiers(Credentials(Pki(tmp_path).settings()))
        with pytest.raises(VerifierLost) as lost:
            await anext(calls.generate(members[0].replica, ROUTED, 5.0))
        await calls.close()
    assert "it speaks no TLS" in caplog.text
    assert "it speaks no TLS" not in str(lost.value)
