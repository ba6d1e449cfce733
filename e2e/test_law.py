"""The joint law of a toy pair's sequences through real processes, the scheduler on.

Two tenants (another prompt, another temperature) alternate; every prompt comes through the prefill
process; the law of four tokens over the seeds is compared with its enumeration.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
import pytest_asyncio
from tests.lossless.conftest import Table
from tests.lossless.evidence import Evidence, chi_square

from dspark.core.generation import Generation
from dspark.core.sampling import Sampling, SamplingMode
from e2e.fleet import Fleet, Output, fleet, totals
from e2e.toy_pair import MAX_NEW_TOKENS, VOCAB, counted, make_toy_pair, sequence_law

FEW, MANY = 300, 800
"""Sequences of a tenant in the quick subset, and in a long case."""
COUPLED, REJECTION = SamplingMode.COUPLED, SamplingMode.REJECTION

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("processes"),
]


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks the same thing with many seeds."""

    prompt: tuple[int, ...]
    temperature: float

    def asks(self, mode: SamplingMode, seed: int, count: int) -> list[Generation]:
        return [
            Generation(
                request_id="law",
                prompt=self.prompt,
                max_new_tokens=MAX_NEW_TOKENS,
                sampling=Sampling(temperature=self.temperature, seed=seed + index, mode=mode),
            )
            for index in range(count)
        ]

    def evidence(self, it: Fleet, outputs: Sequence[Output]) -> Evidence:
        law = sequence_law(it.model.target, self.prompt, self.temperature)
        return chi_square(counted([output.tokens for output in outputs]), law)


COLD = Tenant(tuple(index * 7 % 5 % VOCAB for index in range(9)), 0.7)
HOT = Tenant(tuple(index * 11 % 7 % VOCAB for index in range(13)), 1.3)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """One of each, warm: drafts are used and a budget is in force."""
    async with fleet(make_toy_pair(tmp_path_factory.mktemp("toy"))) as made:
        await made.up("prefill", num_pages=256, chunk_tokens=16)
        await up_verifier(made)
        await made.up("drafter")
        await warm(made)
        yield made


async def up_verifier(it: Fleet, *, wrong: str | None = None) -> None:
    await it.up(
        "verifier",
        wrong=wrong,
        num_pages=512,
        max_sessions=32,
        max_batch_tokens=256,
        local_prefill_tokens=0,
    )


async def warm(it: Fleet) -> None:
    await it.until_drafted(COLD.asks(COUPLED, 0, 1)[0])
    await it.generate(HOT.asks(COUPLED, 10_000, 100), together=16)

    async def budgeted() -> bool:
        return await it.metric("verifier-1", "dspark_verification_budget_epoch") > 0

    await it.until(budgeted, "a budget is in force")


@pytest.mark.parametrize(
    ("together", "mode", "count"),
    [
        (8, COUPLED, FEW),
        (32, REJECTION, FEW),
        *(
            pytest.param(together, mode, MANY, marks=pytest.mark.long)
            for together in (2, 8, 32)
            for mode in (COUPLED, REJECTION)
        ),
    ],
    ids=lambda value: getattr(value, "value", None),
)
async def test_sequences_through_real_processes_have_the_target_s_joint_law(
    it: Fleet, together: int, mode: SamplingMode, count: int, table: Table
) -> None:
    assert it.num_pids == 4
    seed = (count << 30) + (together << 24)
    asked = [HOT.asks(mode, seed, count), COLD.asks(mode, seed + count, count)]
    mixed = [generation for both in zip(*asked, strict=True) for generation in both]
    prompts_before = await it.metric("prefill-1", "vllm:prompt_tokens_total")
    outputs = await it.generate(mixed, together=together)
    assert await it.metric("prefill-1", "vllm:prompt_tokens_total") > prompts_before
    _, _, accepted = totals(outputs)
    assert accepted > len(outputs) / 4, "hardly a draft was used: this proves nothing"
    table.holds(HOT.evidence(it, outputs[::2]))
    table.holds(COLD.evidence(it, outputs[1::2]))


async def evidence_against(it: Fleet, mode: SamplingMode, seed: int) -> Evidence:
    """Ask a wrong system until it shows: how soon depends on how many drafts came in time."""
    outputs: list[Output] = []
    for attempt in range(5):
        asked = COLD.asks(mode, seed + attempt * MANY, MANY)
        outputs += await it.generate(asked, together=32)
        evidence = COLD.evidence(it, outputs)
        if not evidence.holds:
            break
    return evidence


async def test_control_a_drafter_process_that_ships_a_cut_copy_is_caught(
    it: Fleet, table: Table
) -> None:
    await it.down("drafter-1")
    await it.up("drafter", wrong="cuts the shipped copy")
    try:
        await warm(it)
        table.fails(await evidence_against(it, REJECTION, 1 << 40))
    finally:
        await it.down("drafter-1")
        await it.up("drafter")
        await warm(it)


async def test_control_a_verifier_process_that_believes_drafts_is_caught(
    it: Fleet, table: Table
) -> None:
    await it.down("verifier-1")
    await up_verifier(it, wrong="believes drafts")
    try:
        await warm(it)
        table.fails(await evidence_against(it, COUPLED, 1 << 41))
    finally:
        await it.down("verifier-1")
        await up_verifier(it)
        await warm(it)
