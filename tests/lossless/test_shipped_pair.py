"""Greedy equality of the shipped pair on 200 held-out prompts: plain decoding is run once."""

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources

import pytest

from dspark.core.budget import ALL
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.drafter.engine import BlockModel
from dspark.model.pair import load_drafter_side, load_target
from dspark.model.ragged_target import RaggedTarget
from dspark.model.tokenizer import load_tokenizer
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.rounds import BudgetSource
from tests.fleet_examples import a_curve
from tests.lossless.conftest import Table
from tests.lossless.engines import ChangingBudget, Engines, ask, run

TARGET, DRAFTER = "builtin:demo/target", "builtin:demo/drafter"
PROMPTS, TOKENS, TOGETHER, PAGE_TOKENS, PAGES = 200, 48, 32, 16, 512
CURVE = a_curve({tokens: 100 + 2.0 * tokens for tokens in range(1, 257)}, sessions=(1, TOGETHER))

pytestmark = pytest.mark.long


@cache
def prompts() -> Sequence[Sequence[int]]:
    file = resources.files("dspark").joinpath("demo", "prompts.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines()
    tokenizer = load_tokenizer(TARGET)
    texts = [json.loads(line)["prompt"] for line in lines]
    # Evenly over the file: its domains lie one after another.
    chosen = [texts[index * len(texts) // PROMPTS] for index in range(PROMPTS)]
    return [tokenizer.encode(text) for text in chosen]


def outputs(budget: BudgetSource, drafter: BlockModel | None, cap: int) -> list[tuple[int, ...]]:
    _, runner = load_target(
        TARGET, DRAFTER, num_pages=PAGES, page_tokens=PAGE_TOKENS, max_batch_tokens=256
    )
    engines = Engines(
        RaggedTarget(runner),
        gamma=7,
        page_tokens=PAGE_TOKENS,
        num_pages=PAGES,
        budget=budget,
        curve=CURVE,
        max_sessions=TOGETHER,
    )
    asked: list[Generation] = [
        ask(prompt, TOKENS, Sampling(), speculate=drafter is not None, max_draft_tokens=cap)
        for prompt in prompts()
    ]
    sinks = run(engines, {} if drafter is None else {"d": drafter}, asked)
    accepted = sum(sink.stats.accepted_draft_tokens for sink in sinks if sink.stats)
    assert (accepted > PROMPTS * TOKENS / 4) == (drafter is not None)
    return [tuple(sink.tokens) for sink in sinks]


@cache
def plain() -> list[tuple[int, ...]]:
    return outputs(FixedBudget(ALL), None, 0)


@pytest.mark.parametrize(
    ("schedule", "cap"), [("all", 7), ("all", 3), ("adaptive", 0), ("changing", 0)]
)
def test_greedy_outputs_of_200_prompts_are_those_of_plain_decoding(
    schedule: str, cap: int, table: Table
) -> None:
    entries = {"all": [ALL], "adaptive": [None], "changing": [ALL, 24, 0, None, 64]}[schedule]
    _, drafter = load_drafter_side(TARGET, DRAFTER)
    drafted = outputs(ChangingBudget(entries), drafter, cap)
    different = sum(ours != theirs for ours, theirs in zip(drafted, plain(), strict=True))
    assert different == 0, f"{different} of {PROMPTS} outputs differ"
    table.exact(PROMPTS, "exact: 0 outputs differ")
