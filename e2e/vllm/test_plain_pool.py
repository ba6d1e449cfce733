"""A replica whose engine nobody drafts for: what speculation would ignore is served."""

import asyncio
from typing import Any

from grpc import aio

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark.core.fleet import LoadReport
from dspark.engines.vllm.replica import VllmReplica
from dspark.wire.v1 import common_pb2, verify_pb2, verify_pb2_grpc
from e2e.vllm.prompts import NUM_TOKENS, prompts

REJECTION = common_pb2.SAMPLING_MODE_REJECTION


async def _story(asked: list[dict[str, Any]]) -> tuple[list[list[int]], LoadReport]:
    replica = VllmReplica(
        ModelSettings(),
        EndpointSettings(controller="", metrics=False),
        VerifierSettings(drain_s=1.0),
        VllmEngineSettings(
            drafts="none",
            engine_args={
                "max_model_len": 512,
                "block_size": 32,
                "enforce_eager": True,
                "kv_cache_memory_bytes": 1 << 27,
            },
        ),
        name="plain",
    )
    await replica.start()
    try:
        async with aio.insecure_channel(replica._host.address) as channel:
            stub: Any = verify_pb2_grpc.VerifyServiceStub(channel)
            found = [await _tokens(stub, request) for request in asked]
        return found, replica._report()
    finally:
        await replica.drain()
        await replica.stop()


async def _tokens(stub: Any, changes: dict[str, Any]) -> list[int]:
    request = verify_pb2.GenerateRequest(
        **{"request_id": "r", "max_new_tokens": NUM_TOKENS, "stop_token_ids": [1]} | changes
    )
    return [
        token async for answer in stub.Generate(request, timeout=60.0) for token in answer.token_ids
    ]


def test_an_engine_that_nobody_drafts_for_serves_what_speculation_ignores(
    plain: dict[str, list[tuple[int, ...]]],
) -> None:
    (prompt,) = prompts(1)
    whole = plain["1"][0]
    greedy = {"prompt_token_ids": prompt}
    banned = verify_pb2.LogitRules(bias_token_ids=[whole[0]], bias_values=[-100.0])
    # Next to no token is as likely as the likeliest one.
    sharp = common_pb2.Sampling(temperature=1.0, min_p=0.999, mode=REJECTION)
    found, report = asyncio.run(
        _story(
            [
                greedy,
                {**greedy, "committed_token_ids": whole[:5]},
                {**greedy, "logit_rules": banned},
                {**greedy, "sampling": sharp},
            ]
        )
    )
    assert tuple(found[0]) == whole
    assert tuple(found[1]) == whole[5:]
    assert found[2][0] != whole[0]
    assert tuple(found[3]) == whole
    assert report.committed_tokens == sum(map(len, found))
    assert report.steps > 0
    assert report.step_s > 0
    assert (report.active_sessions, report.drafted_steps) == (0, 0)
