"""A replica over an engine of integers, from its start to its stop, asked over real gRPC."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark.core.sampling import Sampling
from dspark.engines.vllm.line import NoteSender
from dspark.engines.vllm.replica import VllmReplica
from dspark.wire.v1 import common_pb2, verify_pb2, verify_pb2_grpc
from tests.engines.vllm.fake_engine import FakeEngine
from tests.fakes import continuation

PROMPT = (5, 6, 7)


class Bench:
    """One replica; its engine tells its steps over the real line."""

    def __init__(self, **settings: Any) -> None:
        self.engine = FakeEngine()
        self.arguments: dict[str, Any] = {}
        self.sender: NoteSender
        self.replica = VllmReplica(
            ModelSettings(),
            EndpointSettings(controller="", metrics=False),
            VerifierSettings(**{"profile_at_start": False, "drain_s": 0.2} | settings),
            VllmEngineSettings(),
            name="v",
            start_engine=self._start,
        )

    def _start(self, arguments: dict[str, Any], name: str) -> FakeEngine:
        self.arguments = arguments
        self.sender = NoteSender(Path(arguments["additional_config"]["dspark"]["line"]))
        self.engine.tell = self.sender.send
        return self.engine

    async def stop(self) -> None:
        await self.replica.drain()
        await self.replica.stop()
        self.sender.close()

    @property
    def address(self) -> str:
        return self.replica._host.address


def _request(**changes: Any) -> verify_pb2.GenerateRequest:
    values: dict[str, Any] = {
        "request_id": "r",
        "prompt_token_ids": PROMPT,
        "max_new_tokens": 8,
        "sampling": common_pb2.Sampling(seed=1),
        "speculation": verify_pb2.GenerateRequest.Speculation(enabled=True),
    }
    return verify_pb2.GenerateRequest(**(values | changes))


async def test_a_replica_serves_accounts_reports_and_frees_everything() -> None:
    bench = Bench()
    await bench.replica.start()
    assert not Path(bench.arguments["additional_config"]["dspark"]["line"]).parent.exists()
    async with aio.insecure_channel(bench.address) as channel:
        stub: Any = verify_pb2_grpc.VerifyServiceStub(channel)
        answers = [answer async for answer in stub.Generate(_request(), timeout=20.0)]
        tokens = [token for answer in answers for token in answer.token_ids]
        assert tokens == continuation(PROMPT, 8, Sampling(seed=1))
        assert answers[-1].finish_reason == verify_pb2.FINISH_REASON_LENGTH
        assert answers[-1].stats.drafted_steps == 4
        hot = common_pb2.Sampling(temperature=0.8, mode=common_pb2.SAMPLING_MODE_COUPLED)
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.Generate(_request(sampling=hot), timeout=20.0).read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "speculation.mode" in str(refused.value.details())
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.Generate(_request(max_new_tokens=4000), timeout=20.0).read()
        assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE
    report = bench.replica._report()
    assert (report.steps, report.drafted_steps, report.accepted_draft_tokens) == (4, 4, 4)
    assert report.survivals == ()  # its blocks are shorter than the pair's
    bench.replica.check_health()
    await bench.stop()
    assert bench.engine.ended


async def test_a_dead_engine_fails_the_health_check() -> None:
    bench = Bench()
    await bench.replica.start()
    bench.engine.failure = "it is gone"
    with pytest.raises(RuntimeError, match="it is gone"):
        bench.replica.check_health()
    await bench.stop()


async def test_a_start_that_fails_leaves_no_engine_behind() -> None:
    bench = Bench(profile_at_start=True)

    async def fails(num_tokens: int) -> None:
        raise RuntimeError("no such steps")

    bench.engine.try_drafts = fails  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no such steps"):
        await asyncio.wait_for(bench.replica.start(), 20.0)
    assert bench.engine.ended
    await bench.stop()
