"""The same bytes through real processes: the shipped pair, whatever drafts, is scheduled or lost.

Half of the streams are greedy, half sampled with a seed (coupled).  Plain decoding is run once;
every stream of every other run must repeat it token for token.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from tests.lossless.conftest import Table

from dspark.config.model import ModelSettings
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.model.tokenizer import load_tokenizer
from dspark.telemetry import metrics
from e2e.demo_drafters import NAMES, TARGET, drafter_folder
from e2e.equality import load_prompts
from e2e.fleet import Fleet, Output, fleet, totals

STREAMS, TOKENS, TOGETHER, GAMMA = 24, 64, 12, 7
SAMPLED = (
    Sampling(temperature=0.9),
    Sampling(temperature=1.0, top_p=0.95),
    Sampling(temperature=0.7, top_k=20),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("processes"),
]


class Running:
    """The fleet, its streams, and what they must be."""

    def __init__(self, it: Fleet, folder: Path) -> None:
        self.fleet = it
        self._folder = folder
        self._drafter = ""
        tokenizer = load_tokenizer(TARGET)
        self.asked = [
            Generation(
                request_id=f"bytes-{index}",
                prompt=tuple(tokenizer.encode(text)),
                max_new_tokens=TOKENS,
                sampling=replace(SAMPLED[index % 3], seed=index) if index % 2 else Sampling(),
            )
            for index, text in enumerate(load_prompts(STREAMS))
        ]
        self.plain: list[tuple[int, ...]] = []

    async def up_verifier(self, name: str, *, wrong: str | None = None) -> None:
        await self.fleet.up(
            "verifier",
            name,
            wrong=wrong,
            num_pages=512,
            max_sessions=16,
            max_batch_tokens=128,
            local_prefill_tokens=8,
        )

    async def use_drafter(self, name: str) -> None:
        """Have this drafter, and no other one."""
        if self._drafter == name:
            return
        if self._drafter:
            await self.fleet.down("drafter-1")
        self._drafter = name
        await self.up_drafter("drafter-1")

    async def up_drafter(self, name: str) -> None:
        folder = drafter_folder(self._drafter, self._folder)
        model = self.fleet.model.model_copy(update={"drafter": folder})
        await self.fleet.up("drafter", name, model=model)
        await self.fleet.until_drafted(self.asked[0])

    async def run(self, **changes: object) -> list[Output]:
        """Every stream, with changes to what is asked."""
        asked = [replace(generation, **changes) for generation in self.asked]  # type: ignore[arg-type]
        return await self.fleet.generate(asked, together=TOGETHER)

    def different(self, outputs: Sequence[Output]) -> int:
        return sum(o.tokens != plain for o, plain in zip(outputs, self.plain, strict=True))

    async def compare(self, table: Table, **changes: object) -> list[Output]:
        outputs = await self.run(**changes)
        different = self.different(outputs)
        assert different == 0, f"{different} of {STREAMS} streams differ"
        table.exact(STREAMS, "exact: 0 streams differ")
        return outputs

    async def compare_while(
        self, change: Callable[[], Awaitable[None]], table: Table
    ) -> list[Output]:
        """Keep streams running, and compare them, from before the change until after it."""

        async def soon() -> None:
            await asyncio.sleep(0.2)
            await change()

        changing = asyncio.ensure_future(soon())
        outputs: list[Output] = []
        over = False
        while not over:
            over = changing.done()
            outputs += await self.compare(table)
        await changing
        return outputs


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One of each, with the shipped pair; its plain decoding is known."""
    model = ModelSettings(min_accepted_length=None)
    async with fleet(model) as made:
        running = Running(made, tmp_path_factory.mktemp("drafters"))
        await made.up("prefill", num_pages=512)
        await running.up_verifier("verifier-1")
        outputs = await running.run(speculate=False)
        assert totals(outputs) == (0, 0, 0)
        running.plain = [output.tokens for output in outputs]
        assert all(len(tokens) == TOKENS for tokens in running.plain)
        assert await made.metric("prefill-1", "vllm:prompt_tokens_total") > 0
        await running.use_drafter("trained")
        yield running


@pytest.mark.parametrize(
    ("name", "caps"),
    [
        ("trained", (0, 3)),
        *(
            pytest.param(name, tuple(range(GAMMA + 1)), marks=pytest.mark.long, id=f"{name}-every")
            for name in NAMES
        ),
    ],
)
async def test_streams_through_real_processes_are_those_of_plain_decoding(
    it: Running, name: str, caps: Sequence[int], table: Table
) -> None:
    """0: the scheduler's own choice; else that many drafts at most."""
    await it.use_drafter(name)
    for cap in caps:
        outputs = await it.compare(table, max_draft_tokens=cap)
        drafted, _, accepted = totals(outputs)
        assert drafted > 0
        assert (accepted > drafted / 10) == (name == "trained")


async def test_they_are_when_the_budget_changes_mid_stream(it: Running, table: Table) -> None:
    """The controller is lost, its budget expires, another one with other rules issues its own."""
    await it.use_drafter("trained")

    async def change() -> None:
        it.fleet.kill("controller")
        await asyncio.sleep(2.0)  # longer than a budget lives
        await it.fleet.up("controller", "controller", off_gain=0.0, activation_sessions=64)
        await asyncio.sleep(2.0)
        it.fleet.kill("controller")
        await it.fleet.up("controller", "controller")

    before = await it.fleet.metric("verifier-1", "dspark_verification_budget_epoch")
    assert before > 0
    await it.compare_while(change, table)


async def test_they_are_when_the_drafter_is_killed_mid_stream(it: Running, table: Table) -> None:
    await it.use_drafter("trained")

    async def change() -> None:
        it.fleet.kill("drafter-1")
        await asyncio.sleep(1.0)
        await it.up_drafter("drafter-1")

    outputs = await it.compare_while(change, table)
    assert any(o.stats.drafted_steps and o.stats.plain_steps > 2 for o in outputs)


async def test_they_are_when_the_verifier_is_killed_and_another_one_goes_on(
    it: Running, table: Table
) -> None:
    await it.use_drafter("trained")
    await it.up_verifier("verifier-2")
    moved = _migrations()

    async def change() -> None:
        it.fleet.kill("verifier-1")
        await asyncio.sleep(1.0)
        await it.up_verifier("verifier-1")

    try:
        await it.compare_while(change, table)
        assert _migrations() > moved, "no stream was running on the verifier that was killed"
    finally:
        await it.fleet.down("verifier-2")


async def test_control_a_verifier_process_that_believes_drafts_is_seen(
    it: Running, table: Table
) -> None:
    await it.use_drafter("trained")
    await it.fleet.down("verifier-1")
    await it.up_verifier("verifier-1", wrong="believes drafts")
    try:
        await it.fleet.until_drafted(it.asked[0])
        different = it.different(await it.run())
        table.exact(STREAMS, f"exact: {different} streams differ")
        assert different > 0
    finally:
        await it.fleet.down("verifier-1")
        await it.up_verifier("verifier-1")


def _migrations() -> float:
    return sum(
        sample.value
        for family in metrics.STREAM_MIGRATIONS.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )
