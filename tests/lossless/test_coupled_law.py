"""Coupled sampling through the real engines has the target's joint law, whatever is scheduled.

Each session has a seed of its own; the law of its tokens over the seeds is compared with the
enumerated law of the toy target: 243 outcomes (3 tokens, length 5) or 256 (2 tokens, length 8,
so that a block of 7 fits; 4 tokens, length 4).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dspark.core.budget import ALL, OFF
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.rounds import BudgetSource
from tests.fleet_examples import a_curve
from tests.lossless.conftest import Table
from tests.lossless.engines import ChangingBudget, Engines, ask, run
from tests.lossless.evidence import Evidence, at_least, chi_square, rate
from tests.lossless.toy_pair import (
    FORCED,
    PAGE_TOKENS,
    Context,
    ToyDrafter,
    ToyPair,
    ToyTarget,
    coupled,
    toy_pair,
)
from tests.verifier.harness import Collected

PAIRS = {
    "3 tokens": toy_pair(3, 5, seed=1),
    "4 tokens": toy_pair(4, 4, seed=2),
    "2 tokens": toy_pair(2, 8, seed=3),
}
SESSIONS, TOGETHER = 2000, 128
PAGES = TOGETHER * 4

CURVE = a_curve({tokens: 100 + 0.5 * tokens for tokens in range(1, 1025)}, sessions=(1, TOGETHER))
BUDGETS = {
    "all": lambda: FixedBudget(ALL),
    "K = 90": lambda: FixedBudget(90),
    "causal": lambda: ChangingBudget([None]),
    "changing": lambda: ChangingBudget([ALL, 40, 0, None, OFF, 90]),
}


def system(
    target: ToyTarget, gamma: int, budget: BudgetSource | None = None, cohorts: int = 1
) -> Engines:
    return Engines(
        target,
        gamma=gamma,
        page_tokens=PAGE_TOKENS,
        num_pages=PAGES,
        budget=budget,
        curve=CURVE,
        max_sessions=TOGETHER,
        cohorts=cohorts,
    )


def sessions(
    pair: ToyPair, temperature: float, seed: int, count: int = SESSIONS
) -> list[Generation]:
    return [
        ask([0], pair.max_new_tokens, Sampling(temperature=temperature, seed=seed + index))
        for index in range(count)
    ]


def seeds_of(*case: object) -> int:
    """Seeds of their own for every case, or all cases would be one sample."""
    code = 0
    for character in repr(case):
        code = (code * 131 + ord(character)) % 2**40
    return code << 20


def evidence_of(pair: ToyPair, temperature: float, sinks: Sequence[Collected]) -> Evidence:
    tokens = np.array([sink.tokens for sink in sinks])[:, FORCED:]
    weights = pair.vocab_size ** np.arange(pair.length)[::-1]
    counts = np.bincount(tokens @ weights, minlength=pair.vocab_size**pair.length)
    return chi_square(counts, pair.law(temperature))


def accepted(sinks: Sequence[Collected]) -> int:
    return sum(sink.stats.accepted_draft_tokens for sink in sinks if sink.stats)


def check_law(name: str, gamma: int, temperature: float, budget: str, table: Table) -> None:
    pair = PAIRS[name]
    generations = sessions(pair, temperature, seeds_of(name, gamma, temperature, budget))
    engines = system(ToyTarget(pair, PAGES), gamma, BUDGETS[budget]())
    sinks = run(engines, {"d": ToyDrafter(pair, gamma)}, generations)
    assert accepted(sinks) > len(sinks) / 10, "hardly a draft was used: this proves nothing"
    table.holds(evidence_of(pair, temperature, sinks))


@pytest.mark.parametrize(
    ("name", "gamma", "temperature", "budget"),
    [
        ("3 tokens", 1, 1.0, "all"),
        ("3 tokens", 4, 1.3, "K = 90"),
        ("4 tokens", 3, 0.5, "causal"),
        ("2 tokens", 7, 1.0, "changing"),
    ],
)
def test_sequences_have_the_target_s_joint_law(
    name: str, gamma: int, temperature: float, budget: str, table: Table
) -> None:
    check_law(name, gamma, temperature, budget, table)


@pytest.mark.long
@pytest.mark.parametrize(
    ("gamma", "temperature", "budget"),
    [
        # Every block size at every temperature, and every two of the three together.
        (gamma, temperature, ("all", "K = 90", "causal")[(gamma + index) % 3])
        for gamma in range(1, 8)
        for index, temperature in enumerate((0.5, 1.0, 1.3))
    ],
)
def test_they_have_it_for_every_block_size_temperature_and_budget(
    gamma: int, temperature: float, budget: str, table: Table
) -> None:
    check_law("3 tokens", gamma, temperature, budget, table)


@pytest.mark.long
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
@pytest.mark.parametrize(
    ("name", "gamma"),
    [("4 tokens", 1), ("4 tokens", 3), ("2 tokens", 5), ("2 tokens", 6), ("2 tokens", 7)],
)
def test_so_have_other_pairs_under_a_budget_that_never_rests(
    name: str, gamma: int, temperature: float, table: Table
) -> None:
    check_law(name, gamma, temperature, "changing", table)


def test_two_tenants_in_the_same_steps_keep_their_own_laws(table: Table) -> None:
    """Temperatures 0.5 and 1.3 alternate within every batch, over two cohorts."""
    pair = PAIRS["3 tokens"]
    seed = seeds_of("tenants")
    cold = sessions(pair, 0.5, seed, SESSIONS // 2)
    hot = sessions(pair, 1.3, seed + SESSIONS, SESSIONS // 2)
    mixed = [generation for both in zip(cold, hot, strict=True) for generation in both]
    engines = system(ToyTarget(pair, PAGES), 4, BUDGETS["changing"](), cohorts=2)
    sinks = run(engines, {"d": ToyDrafter(pair, 4)}, mixed)
    table.holds(evidence_of(pair, 0.5, sinks[::2]))
    table.holds(evidence_of(pair, 1.3, sinks[1::2]))


# --- negative controls: each must fail the chi-square above -----------------------------------


class DeafTarget(ToyTarget):
    """Noise that ignores the position."""

    def chosen(
        self,
        contexts: Sequence[Context],
        samplings: Sequence[Sampling],
        drafts: Sequence[int | None],
    ) -> list[int]:
        return coupled(self.pair.target, contexts, samplings, positions=[0] * len(contexts))


class TrustingTarget(ToyTarget):
    """Accepts a draft because the drafter is sure of it."""

    def chosen(
        self,
        contexts: Sequence[Context],
        samplings: Sequence[Sampling],
        drafts: Sequence[int | None],
    ) -> list[int]:
        own = super().chosen(contexts, samplings, drafts)
        return [
            token if draft is None or self.pair.confidence[context] < 0.9 else draft
            for token, draft, context in zip(own, drafts, contexts, strict=True)
        ]


class LenientTarget(ToyTarget):
    """Accepts a draft that it finds likely itself ("typical acceptance")."""

    def chosen(
        self,
        contexts: Sequence[Context],
        samplings: Sequence[Sampling],
        drafts: Sequence[int | None],
    ) -> list[int]:
        own = super().chosen(contexts, samplings, drafts)
        return [
            draft if draft is not None and self._likely(context, draft) else token
            for token, draft, context in zip(own, drafts, contexts, strict=True)
        ]

    def _likely(self, context: Context, draft: int) -> bool:
        logits = self.pair.target[context]
        return bool(logits[draft] >= logits.max() - 0.5)


@pytest.mark.parametrize("wrong", [DeafTarget, TrustingTarget, LenientTarget])
def test_control_a_target_that_commits_something_else(wrong: type[ToyTarget], table: Table) -> None:
    pair = PAIRS["3 tokens"]
    generations = sessions(pair, 1.0, seeds_of("control"))
    sinks = run(system(wrong(pair, PAGES), 4), {"d": ToyDrafter(pair, 4)}, generations)
    table.fails(evidence_of(pair, 1.0, sinks))


# --- how often drafts are accepted --------------------------------------------------------------


class DeafDrafter(ToyDrafter):
    """The same q, with noise of its own."""

    def chosen(self, contexts: Sequence[Context], samplings: Sequence[Sampling]) -> list[int]:
        own = [replace(sampling, seed=sampling.seed + 2**62) for sampling in samplings]
        return super().chosen(contexts, own)


def acceptance(drafter: ToyDrafter, case: str) -> tuple[int, int, float, float]:
    """Run with blocks of one: (accepted, drafted, exact rate, mean lower bound)."""
    temperature = 1.0
    generations = sessions(drafter.pair, temperature, seeds_of(case))
    engines = system(ToyTarget(drafter.pair, PAGES), 1)
    sinks = run(engines, {"d": drafter}, generations)
    both = np.array([drafter.pair.agreement(c, t) for c, t in drafter.first_drafts])
    drafted = sum(sink.stats.drafted_steps for sink in sinks if sink.stats)
    assert drafted == len(drafter.first_drafts)
    exact, bound = both.mean(axis=0)
    return accepted(sinks), drafted, float(exact), float(bound)


@pytest.mark.parametrize(
    "noise",
    [pytest.param(0.3, marks=pytest.mark.long), 1.0, pytest.param(3.0, marks=pytest.mark.long)],
)
def test_drafts_are_accepted_as_often_as_the_bound_and_the_race_of_exponentials_say(
    noise: float, table: Table
) -> None:
    """The bound is (1 - TV) / (1 + TV), on average over the contexts drafted in."""
    drafter = ToyDrafter(toy_pair(3, 5, seed=9, noise=noise), 1)
    hits, drafted, exact, bound = acceptance(drafter, f"rate {noise}")
    assert exact >= bound
    table.holds(at_least(hits, drafted, bound))
    table.holds(rate(hits, drafted, exact))


def test_control_a_drafter_with_noise_of_its_own_falls_below_the_bound(table: Table) -> None:
    """Its output is right all the same: that is what drafter invariance means."""
    pair = toy_pair(3, 5, seed=9, noise=0.3)
    hits, drafted, exact, bound = acceptance(DeafDrafter(pair, 1), "deaf drafter")
    table.fails(at_least(hits, drafted, bound))
    table.fails(rate(hits, drafted, exact))
