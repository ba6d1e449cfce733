"""The same tokens whatever drafts, whatever is scheduled, whatever is lost: a real torch pair.

64 prompts (50 greedy, 14 sampled in four ways) run through the real engines over a tiny random
target.  Plain decoding is run once; every other run must repeat it token for token.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from dspark.core.budget import ALL, OFF
from dspark.core.draft import DraftRequest, Proposal, Rows
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.drafter.engine import BlockModel
from dspark.model.batch import RaggedBatch, StepOutput
from dspark.model.drafter import DSparkDrafter
from dspark.model.drafter_runner import BlockDrafter
from dspark.model.ragged_target import RaggedTarget
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.rounds import BudgetSource
from tests.fleet_examples import a_curve
from tests.lossless.conftest import Table
from tests.lossless.engines import ChangingBudget, Engines, ask, run
from tests.model import tiny
from tests.verifier.harness import Collected

GAMMA, TOKENS, TOGETHER = 7, 24, 32
PAGE_TOKENS = 16
PAGES = TOGETHER * 4
GREEDY = 50
SAMPLED = (
    Sampling(temperature=0.6),
    Sampling(temperature=1.0),
    Sampling(temperature=1.0, top_k=20, top_p=0.9),
    Sampling(temperature=1.3, min_p=0.02),
)
CURVE = a_curve({tokens: 100 + 0.5 * tokens for tokens in range(1, 257)}, sessions=(1, TOGETHER))


def asked(index: int, **more: object) -> Generation:
    """Prompt number ``index``; its seed is its number too."""
    sampling = Sampling() if index < GREEDY else SAMPLED[index % len(SAMPLED)]
    prompt = tiny.prompt(4 + index * 7 % 23, seed=index)
    return ask(prompt, TOKENS, replace(sampling, seed=index), **more)


def all_of(count: int = 64, **more: object) -> list[Generation]:
    return [asked(index, **more) for index in range(count)]


def engines(
    target: RaggedTarget | None = None, budget: BudgetSource | None = None, cohorts: int = 1
) -> Engines:
    return Engines(
        target or RaggedTarget(tiny.runner(num_pages=PAGES)),
        gamma=GAMMA,
        page_tokens=PAGE_TOKENS,
        num_pages=PAGES,
        budget=budget,
        curve=CURVE,
        max_sessions=TOGETHER,
        cohorts=cohorts,
    )


@cache
def plain() -> tuple[tuple[int, ...], ...]:
    """The output without speculation: what every other run is compared with."""
    sinks = run(engines(), {}, all_of(speculate=False))
    return tuple(tuple(sink.tokens) for sink in sinks)


class Scripted:
    """Knows the true continuation of every seed, and slips where it is told to."""

    def __init__(self, *, slip_every: int, confidence: float) -> None:
        self._truth = [(*asked(index).prompt, *tokens) for index, tokens in enumerate(plain())]
        self._slip_every = slip_every
        self._confidence = confidence
        self._sessions: dict[Hashable, tuple[int, int]] = {}  # (seed, rows)

    @property
    def gamma(self) -> int:
        return GAMMA

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        self._sessions[key] = (sampling.seed, 0)
        return True

    def append(self, key: Hashable, start: int, rows: Rows) -> int:
        seed, num_rows = self._sessions[key]
        assert start == num_rows
        self._sessions[key] = (seed, num_rows + len(rows))
        return num_rows + len(rows)

    def cached(self, key: Hashable) -> int | None:
        return self._sessions[key][1] if key in self._sessions else None

    def close(self, key: Hashable) -> None:
        self._sessions.pop(key, None)

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        proposals = []
        for request in requests:
            truth = self._truth[self._sessions[request.key][0]]
            first = request.base_length + 1
            tokens = [
                (truth[position] + (position % self._slip_every == 0)) % tiny.VOCAB
                for position in range(first, first + request.max_tokens)
            ]
            said = (self._confidence,) * len(tokens)
            proposals.append(Proposal(tokens=tuple(tokens), confidences=said))
        return proposals


def untrained() -> BlockDrafter:
    """A real drafter of random weights, with blocks of 7."""
    torch.manual_seed(3)
    module = DSparkDrafter(replace(tiny.drafter().config, gamma=GAMMA))
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.1)
    return BlockDrafter(module.eval().requires_grad_(False))


def drafter(name: str) -> BlockModel:
    if name == "good":
        return Scripted(slip_every=6, confidence=0.9)
    if name == "adversarial":  # always wrong, and sure of it
        return Scripted(slip_every=1, confidence=1.0)
    return untrained()


SCHEDULES: Mapping[str, tuple[int, Sequence[int | None]]] = {
    **{f"fixed {k}": (k, [ALL]) for k in range(1, GAMMA + 1)},
    "adaptive": (0, [None]),
    "changing": (0, [ALL, 11, 0, None, OFF, 3]),
}


def compare(sinks: Sequence[Collected], table: Table) -> None:
    outputs = [tuple(sink.tokens) for sink in sinks]
    different = sum(ours != theirs for ours, theirs in zip(outputs, plain(), strict=True))
    assert different == 0, f"{different} of {len(outputs)} streams differ"
    table.exact(len(outputs), "exact: 0 streams differ")


def check(name: str, schedule: str, table: Table, cohorts: int = 1) -> None:
    most, entries = SCHEDULES[schedule]
    system = engines(budget=ChangingBudget(entries), cohorts=cohorts)
    sinks = run(system, {"d": drafter(name)}, all_of(max_draft_tokens=most))
    compare(sinks, table)
    drafted = sum(sink.stats.verified_draft_tokens for sink in sinks if sink.stats)
    accepted = sum(sink.stats.accepted_draft_tokens for sink in sinks if sink.stats)
    assert drafted > 0
    assert (accepted > drafted / 3) == (name == "good")


@pytest.mark.parametrize(("name", "schedule"), [("adversarial", "adaptive"), ("good", "fixed 7")])
def test_streams_are_the_same_with_speculation(name: str, schedule: str, table: Table) -> None:
    check(name, schedule, table)


@pytest.mark.long
@pytest.mark.parametrize("name", ["good", "untrained", "adversarial"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_they_are_with_every_drafter_under_every_schedule(
    name: str, schedule: str, table: Table
) -> None:
    check(name, schedule, table, cohorts=2 if schedule == "changing" else 1)


@pytest.mark.parametrize(
    "names",
    [
        ("good", "untrained"),
        pytest.param(("untrained", "good"), marks=pytest.mark.long),
        pytest.param(("adversarial", "good"), marks=pytest.mark.long),
    ],
    ids="-".join,
)
def test_they_are_where_the_drafter_is_killed_and_another_takes_over(
    names: tuple[str, str], table: Table
) -> None:
    first, second = names
    with engines(budget=ChangingBudget(SCHEDULES["changing"][1])) as system:
        system.connect("first", drafter(first))
        sinks = [system.submit(generation) for generation in all_of()]
        assert sinks[0].some.wait(30)
        system.kill("first")
        assert not sinks[-1].done.is_set()
        system.connect("second", drafter(second))
        compare([sink.wait() for sink in sinks], table)


def test_a_stream_moved_to_another_replica_goes_on_where_it_was(table: Table) -> None:
    """Cut at a different length each, and continued by another target with another drafter."""
    cuts = [1 + index % (TOKENS - 1) for index in range(64)]
    moved = [
        replace(generation, committed=plain()[index][: cuts[index]])
        for index, generation in enumerate(all_of())
    ]
    sinks = run(engines(), {"d": drafter("good")}, moved)
    for sink, cut, index in zip(sinks, cuts, range(64), strict=True):
        assert tuple(sink.tokens) == plain()[index][cut:]
    table.exact(len(sinks), "exact: 0 streams differ")


# --- negative controls ------------------------------------------------------------------------


class BatchShapedRunner:
    """Logits that depend in the second digit on how many tokens share the step."""

    def __init__(self) -> None:
        self._runner = tiny.runner(num_pages=PAGES)

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def forward(self, batch: RaggedBatch) -> StepOutput:
        logits = self._runner.forward(batch).logits
        generator = torch.Generator().manual_seed(batch.num_tokens)
        return StepOutput(logits=logits + 0.02 * torch.randn(logits.shape, generator=generator))


class CredulousTarget(RaggedTarget):
    """Takes one draft in four for its own token."""

    def step(self, segments):  # type: ignore[no-untyped-def]
        own = super().step(segments)
        return [
            tuple(
                draft if draft is not None and draft % 4 == 0 else token
                for token, draft in zip(tokens, (*part.tokens[1:], None), strict=True)
            )
            if part.choose == len(part.tokens)
            else tokens
            for part, tokens in zip(segments, own, strict=True)
        ]


@pytest.mark.parametrize("wrong", ["batch-shaped logits", "credulous"])
def test_control_a_target_that_looks_at_the_batch_or_the_drafts_is_seen(
    wrong: str, table: Table
) -> None:
    if wrong == "credulous":
        target = CredulousTarget(tiny.runner(num_pages=PAGES))
    else:
        target = RaggedTarget(BatchShapedRunner())  # type: ignore[arg-type]
    sinks = run(engines(target, FixedBudget(ALL)), {"d": untrained()}, all_of(20))
    outputs = [tuple(sink.tokens) for sink in sinks]
    different = sum(ours != theirs for ours, theirs in zip(outputs, plain(), strict=False))
    table.exact(len(outputs), f"exact: {different} streams differ")
    assert different > 0
