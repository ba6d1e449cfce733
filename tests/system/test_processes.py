"""The promise, through the whole stack: the tokens are the target's, whatever happens around it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dspark.wire.v1 import verify_pb2
from dspark.wire.v1.common_pb2 import Sampling
from tests.model import byte_tokenizer, tiny
from tests.system.fleet import PAGE_TOKENS, System, system

GREEDY = Sampling()
SAMPLED = Sampling(temperature=0.9, seed=12345)
COUNT = 10
PROMPTS = [tiny.prompt(length, seed=length) for length in (3, 30, 45)]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """One of each, up and connected."""
    async with system(tmp_path_factory.mktemp("drafter")) as made:
        await made.up_verifier()
        await made.up_drafter()
        await made.up_prefill()
        await made.drafters_connected(1)
        await made.until(lambda: made.load("prefill-1") is not None)
        yield made


async def test_streams_are_the_same_with_speculation_on_off_and_capped(it: System) -> None:
    asked = [(prompt, COUNT, sampling) for sampling in (GREEDY, SAMPLED) for prompt in PROMPTS[:2]]
    off = await asyncio.gather(*(it.generate(*one, speculate=False) for one in asked))
    on = await asyncio.gather(*(it.generate(*one) for one in asked))
    capped = await asyncio.gather(*(it.generate(*one, max_draft_tokens=2) for one in asked))
    for plainly, freely, shortly in zip(off, on, capped, strict=True):
        assert len(plainly.tokens) == COUNT
        assert freely.tokens == shortly.tokens == plainly.tokens
        assert plainly.stats.drafted_tokens == 0
        assert freely.stats.drafted_steps > 0
        assert freely.stats.row_bytes > 0
        assert sum(shortly.stats.accepted_histogram[3:]) == 0


async def test_rules_and_logprobs_are_the_same_with_speculation_on_off_and_capped(
    it: System,
) -> None:
    rules = verify_pb2.LogitRules(
        bias_token_ids=[5], bias_values=[-3.0], repetition_penalty=1.2, presence_penalty=0.5,
        frequency_penalty=0.25, regex="[a-f ]{99,}",
    )  # fmt: skip
    for sampling in (GREEDY, SAMPLED):
        for prompt in PROMPTS[:2]:  # one runs here, one in the prefill pool
            off = await it.generate(prompt, COUNT, sampling, speculate=False, rules=rules)
            on = await it.generate(prompt, COUNT, sampling, rules=rules)
            capped = await it.generate(prompt, COUNT, sampling, max_draft_tokens=2, rules=rules)
            assert on.tokens == capped.tokens == off.tokens
            assert on.logprobs == capped.logprobs == off.logprobs
            assert len(off.logprobs) == len(off.tokens) == COUNT
            text = byte_tokenizer.tokenizer().decode(off.tokens)
            assert set(text) <= set("abcdef ")
            assert on.stats.drafted_steps > 0


async def test_sessions_side_by_side_get_what_they_get_alone(it: System) -> None:
    alone = [await it.generate(p, COUNT, SAMPLED, speculate=False) for p in PROMPTS]
    together = await asyncio.gather(*(it.generate(p, COUNT, SAMPLED) for p in PROMPTS))
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]


async def test_a_drafter_that_goes_and_comes_back_mid_stream_changes_no_token(
    it: System,
) -> None:
    for sampling in (GREEDY, SAMPLED):
        expected = (await it.generate(PROMPTS[1], 40, sampling, speculate=False)).tokens
        changes: list[asyncio.Task[None]] = []

        async def replace_drafter() -> None:
            await it.down("drafter-1")
            await it.up_drafter()

        def begin(into: list[asyncio.Task[None]] = changes) -> None:
            into.append(asyncio.create_task(replace_drafter()))

        answer = await it.generate(PROMPTS[1], 40, sampling, at={5: begin})
        assert answer.tokens == expected
        await asyncio.gather(*changes)
        await it.drafters_connected(1)
        again = await it.generate(PROMPTS[1], COUNT, sampling)
        assert again.tokens == expected[:COUNT]
        assert again.stats.drafted_steps > 0


async def test_a_prompt_from_the_prefill_pool_equals_one_that_ran_here(it: System) -> None:
    await it.up_verifier("verifier-2", local_prefill_tokens=999)
    await it.until(lambda: it.load("verifier-2") is not None)
    for sampling in (GREEDY, SAMPLED):
        for prompt in PROMPTS[1:]:
            pulled = await it.generate(prompt, COUNT, sampling)
            here = await it.generate(prompt, COUNT, sampling, verifier="verifier-2")
            assert pulled.tokens == here.tokens
    # A longer prompt: the verifier names the pages that it has, the pool sends the rest.
    longer = [*PROMPTS[1], *tiny.prompt(20, seed=7)]
    pulled = await it.generate(longer, COUNT, GREEDY)
    here = await it.generate(longer, COUNT, GREEDY, verifier="verifier-2")
    assert pulled.tokens == here.tokens
    cached = len(PROMPTS[1]) // PAGE_TOKENS * PAGE_TOKENS
    assert pulled.stats.cached_prompt_tokens == cached


async def test_losing_the_prefill_pool_costs_time_only(it: System) -> None:
    before = await it.generate(PROMPTS[2], COUNT, SAMPLED)
    await it.down("prefill-1")
    other = tiny.prompt(45, seed=99)
    after = await it.generate(other, COUNT, SAMPLED)
    plain = await it.generate(other, COUNT, SAMPLED, speculate=False)
    assert after.tokens == plain.tokens
    assert (await it.generate(PROMPTS[2], COUNT, SAMPLED)).tokens == before.tokens


async def test_budgets_with_their_epoch_arrive_at_the_verifier(it: System) -> None:

    def epoch_in_use() -> int:
        load = it.load("verifier-1")
        return 0 if load is None or load.budget_epoch is None else load.budget_epoch

    await it.until(lambda: epoch_in_use() > 0)
    fleet = it.controller.fleet.value
    assert fleet is not None
    (budget,) = [pool.budget for pool in fleet.pools if pool.budget is not None]
    assert budget.epoch >= epoch_in_use()
    assert budget.pool == "verifier"
