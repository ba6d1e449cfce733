import asyncio
from typing import Any

import pytest

from dspark.config.verifier import VerifierSettings
from dspark.core.draft import JudgedDraft
from dspark.core.generation import Generation, GenerationStats
from dspark.core.logits import LogitRules, TokenLogprobs
from dspark.core.sampling import Sampling
from dspark.core.session import FinishReason
from dspark.engines.vllm.generations import VllmGenerations
from dspark.engines.vllm.ledger import Ledger
from dspark.verifier.refusals import NeverFits, Overloaded
from dspark.verifier.window import LoadWindow
from tests.engines.vllm.fake_engine import GAMMA, FakeEngine
from tests.fakes import VOCAB, continuation

PROMPT = (5, 6, 7)


class Reader:
    """A stream's end."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.drafts: list[JudgedDraft | None] = []
        self.steps: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.failure: tuple[str, bool] | None = None
        self.ended = asyncio.Event()

    def commit(
        self,
        tokens: tuple[int, ...],
        stats: GenerationStats,
        logprobs: tuple[TokenLogprobs, ...] = (),
        draft: JudgedDraft | None = None,
    ) -> None:
        self.tokens += tokens
        self.drafts.append(draft)
        self.steps.append(stats.steps)
        assert stats.cached_prompt_tokens == 2

    def finish(self, reason: FinishReason, stats: GenerationStats) -> None:
        self.finish_reason = reason
        self.ended.set()

    def fail(self, message: str, *, anywhere: bool = False) -> None:
        self.failure = (message, anywhere)
        self.ended.set()


class Bench:
    """Everything around one engine."""

    def __init__(self, **settings: Any) -> None:
        self.ledger = Ledger(
            LoadWindow(0.0), pool="p", model_name="m", block_size=GAMMA, refinement=None
        )
        self.engine = FakeEngine(self.ledger.take)
        self.heard = 0
        self.generations = VllmGenerations(
            self.engine,
            self.ledger,
            settings=VerifierSettings(**settings),
            vocab_size=VOCAB,
            speculates=True,
            listen=self._listen,
        )

    def _listen(self) -> None:
        self.heard += 1

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def generation(**changes: Any) -> Generation:
    values: dict[str, Any] = {
        "request_id": "r",
        "prompt": PROMPT,
        "max_new_tokens": 8,
        "sampling": Sampling(),
    }
    return Generation(**(values | changes))


async def test_a_generation_runs_to_its_end_step_by_step() -> None:
    bench, reader = Bench(), Reader()
    bench.generations.submit(generation(trace=True, max_draft_tokens=2, priority=3), reader)
    await asyncio.wait_for(reader.ended.wait(), 10.0)
    assert reader.tokens == continuation(PROMPT, 8, Sampling())
    assert reader.finish_reason is FinishReason.LENGTH
    assert reader.steps == [0, 1, 2, 3, 4]
    assert reader.drafts[0] is None
    assert [d.accepted for d in reader.drafts[1:] if d is not None] == [1, 1, 1, 1]
    assert bench.heard == 5
    (wishes,) = bench.engine.wishes
    assert (wishes.session, wishes.max_draft_tokens, wishes.priority) == (1, 2, 3)
    await bench.settled()
    assert bench.generations.num_open == 0
    assert not bench.engine.running


async def test_it_goes_on_after_tokens_that_were_committed_elsewhere() -> None:
    bench, reader = Bench(), Reader()
    whole = continuation(PROMPT, 8, Sampling())
    bench.generations.submit(generation(committed=tuple(whole[:3])), reader)
    await asyncio.wait_for(reader.ended.wait(), 10.0)
    assert reader.tokens == whole[3:]


async def test_a_cancelled_generation_is_aborted_in_the_engine() -> None:
    bench, reader = Bench(), Reader()
    bench.engine.held = asyncio.Event()
    session = bench.generations.submit(generation(), reader)
    await bench.settled()
    assert bench.engine.running
    bench.generations.cancel(session)
    await bench.settled()
    assert not bench.engine.running
    assert bench.generations.num_open == 0
    bench.generations.cancel(session)


async def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    bench = Bench()
    with pytest.raises(NeverFits, match="make 503, more than the 400"):
        bench.generations.submit(generation(max_new_tokens=500), Reader())
    with pytest.raises(ValueError, match=f"token {VOCAB} is outside"):
        bench.generations.submit(generation(prompt=(VOCAB,)), Reader())
    with pytest.raises(ValueError, match="logit_bias"):
        bench.generations.submit(generation(rules=LogitRules(bias=((1, 1.0),))), Reader())
    assert bench.generations.num_open == 0


async def test_the_queue_is_bounded() -> None:
    bench = Bench(max_sessions=1, max_waiting=1)
    bench.engine.held = asyncio.Event()
    for _ in range(2):
        bench.generations.submit(generation(), Reader())
    with pytest.raises(Overloaded, match="2 sessions are open"):
        bench.generations.submit(generation(), Reader())
    await bench.generations.close()


async def test_a_dead_engine_sends_its_streams_elsewhere() -> None:
    bench, reader = Bench(), Reader()
    bench.engine.held = asyncio.Event()
    bench.generations.submit(generation(), reader)
    await bench.settled()
    bench.engine.failure = "it is dead"
    bench.engine.held.set()
    await asyncio.wait_for(reader.ended.wait(), 10.0)
    assert reader.failure == ("it is dead", False)


async def test_what_the_engine_does_not_take_is_nothing_for_others_either() -> None:
    bench, reader = Bench(), Reader()

    async def refuses(*_: object, **__: object) -> Any:
        raise ValueError("no such grammar")
        yield

    bench.engine.generate = refuses  # type: ignore[method-assign]
    bench.generations.submit(generation(), reader)
    await asyncio.wait_for(reader.ended.wait(), 10.0)
    assert reader.failure == ("no such grammar", True)


async def test_a_stop_fails_what_is_open_and_what_comes_after() -> None:
    bench, reader, later = Bench(), Reader(), Reader()
    bench.engine.held = asyncio.Event()
    bench.generations.submit(generation(), reader)
    await bench.settled()
    await bench.generations.close()
    bench.generations.submit(generation(), later)
    assert reader.failure == later.failure == ("the verifier stopped", False)
    assert not bench.engine.running
