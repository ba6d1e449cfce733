"""Verifiers that speak integers, and fleets of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from grpc import aio

from dspark.core.fleet import Compatibility, Fleet, Member, Replica, ReplicaState, Role
from dspark.core.ids import Incarnation, PoolName, ReplicaName, Term
from dspark.wire.v1 import common_pb2, verify_pb2, verify_pb2_grpc

COMPATIBILITY = Compatibility(
    protocol_version=1,
    model="toy",
    target_digest="t",
    tokenizer_digest="k",
    vocab_size=260,
    block_size=7,
    target_layer_ids=(1, 2),
    projection_id="p",
    kv_dtype="float32",
    page_tokens=16,
    rows_dtype="float16",
)


def member(name: str, address: str = "", *, incarnation: int = 1) -> Member:
    return Member(
        replica=Replica(
            name=ReplicaName(name),
            pool=PoolName("verifier"),
            role=Role.VERIFIER,
            address=address,
            incarnation=Incarnation(incarnation),
            state=ReplicaState.READY,
            compatibility=COMPATIBILITY,
        )
    )


def fleet_of(*members: Member, version: int = 1, term: int = 1) -> Fleet:
    return Fleet(term=Term(term), version=version, members=members)


@dataclass
class FakeVerifier(verify_pb2_grpc.VerifyServiceServicer):
    """Answers with ``script(choice)``, in messages of ``chunk_tokens``, then the finish alone.

    Attributes:
        script: Tokens of a choice; a stop token in it ends the generation.
        chunk_tokens: Tokens of one message.
        pause_s: Before each message.
        fail_after: Number of tokens after which the call is aborted with ``code``, or None.
        code: Status of that.
        details: Words of that.
        requests: What was asked.
        cancelled: Set when a call was cancelled.
    """

    script: Callable[[int], Sequence[int]]
    chunk_tokens: int = 3
    pause_s: float = 0.0
    fail_after: int | None = None
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    details: str = "fake"
    requests: list[verify_pb2.GenerateRequest] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def Handshake(
        self, request: common_pb2.HandshakeRequest, context: object
    ) -> common_pb2.HandshakeResponse:
        return common_pb2.HandshakeResponse()

    async def Generate(
        self,
        request: verify_pb2.GenerateRequest,
        context: "aio.ServicerContext[verify_pb2.GenerateRequest, verify_pb2.GenerateResponse]",
    ) -> AsyncGenerator[verify_pb2.GenerateResponse, None]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        try:
            tokens = list(self.script(request.sampling.choice))[: request.max_new_tokens]
            finish = verify_pb2.FINISH_REASON_LENGTH
            for index, token in enumerate(tokens):
                if token in request.stop_token_ids:
                    tokens = tokens[: index + 1]
                    finish = verify_pb2.FINISH_REASON_STOP
            position, sent = len(request.committed_token_ids), 0
            while position < len(tokens):
                await asyncio.sleep(self.pause_s)
                if self.fail_after is not None and sent >= self.fail_after:
                    await context.abort(self.code, self.details)
                chunk = tokens[position : position + self.chunk_tokens]
                yield verify_pb2.GenerateResponse(
                    token_ids=chunk,
                    logprobs=[logprobs(token, request.top_logprobs) for token in chunk]
                    if request.HasField("top_logprobs")
                    else (),
                    draft=draft_of(chunk) if request.speculation.trace else None,
                )
                position += len(chunk)
                sent += len(chunk)
            yield verify_pb2.GenerateResponse(finish_reason=finish, stats=STATS)
        except (asyncio.CancelledError, GeneratorExit):  # in a wait, or while a message is sent
            self.cancelled.set()
            raise


def draft_of(committed: Sequence[int]) -> verify_pb2.JudgedDraft:
    """All but the last token as drafted, then a rejected token and a trimmed one."""
    accepted = list(committed[:-1])
    return verify_pb2.JudgedDraft(
        token_ids=[*accepted, 0, 1],
        confidences=[0.9] * len(accepted) + [0.25, 0.125],
        verified_tokens=len(accepted) + 1,
        accepted_tokens=len(accepted),
    )


def logprobs(token: int, top: int) -> verify_pb2.TokenLogprobs:
    """-token / 1000, and the tokens 0, 1, ... as the likeliest ones."""
    return verify_pb2.TokenLogprobs(
        logprob=-token / 1000, top_token_ids=range(top), top_logprobs=[-0.5] * top
    )


STATS = verify_pb2.GenerationStats(
    steps=5,
    drafted_steps=4,
    plain_steps=1,
    drafted_tokens=20,
    verified_draft_tokens=16,
    accepted_draft_tokens=8,
    accepted_histogram=[1, 1, 0, 1, 1, 0, 0, 0],
    row_bytes=1000,
    draft_bytes=100,
)


@asynccontextmanager
async def serving(*verifiers: FakeVerifier) -> AsyncIterator[list[Member]]:
    """Serve each on a port of its own; yield them as members of a fleet: v0, v1, ..."""
    servers, members = [], []
    for index, verifier in enumerate(verifiers):
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        verify_pb2_grpc.add_VerifyServiceServicer_to_server(verifier, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        members.append(member(f"v{index}", f"127.0.0.1:{port}"))
    try:
        yield members
    finally:
        for server in servers:
            await server.stop(None)
