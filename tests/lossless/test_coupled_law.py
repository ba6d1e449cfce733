"""Coupled sampling through the real engines has the target's joint law, whatever is scheduled."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dspark.core.sampling import Sampling
from tests.lossless.conftest import Table
from tests.lossless.engines import run
from tests.lossless.evidence import at_least, rate
from tests.lossless.toy_pair import Context, ToyDrafter, ToyTarget, coupled, toy_pair
from tests.lossless.toy_system import (
    BUDGETS,
    FEW,
    MANY,
    PAGES,
    PAIRS,
    TEMPERATURES,
    accepted,
    evidence_of,
    require_drafts,
    seeds_of,
    sessions,
    system,
)


def check_law(
    name: str, gamma: int, temperature: float, budget: str, table: Table, *, count: int
) -> None:
    pair = PAIRS[name]
    generations = sessions(pair, temperature, seeds_of(name, gamma, temperature, budget), count)
    engines = system(ToyTarget(pair, PAGES), gamma, BUDGETS[budget]())
    sinks = run(engines, {"d": ToyDrafter(pair, gamma)}, generations)
    require_drafts(sinks)
    table.holds(evidence_of(pair, temperature, sinks))


@pytest.mark.parametrize(
    ("name", "gamma", "temperature", "budget"),
    [
        ("3 tokens", 4, 1.3, "K = 90"),
        ("4 tokens", 3, 0.5, "causal"),
        ("2 tokens", 7, 1.0, "changing"),
    ],
)
def test_sequences_have_the_target_s_joint_law(
    name: str, gamma: int, temperature: float, budget: str, table: Table
) -> None:
    check_law(name, gamma, temperature, budget, table, count=FEW)


@pytest.mark.long
@pytest.mark.parametrize(
    ("gamma", "temperature", "budget"),
    [
        # Every block size at every temperature, and every two of the three together.
        (gamma, temperature, ("all", "K = 90", "causal")[(gamma + index) % 3])
        for gamma in range(1, 8)
        for index, temperature in enumerate(TEMPERATURES)
    ],
)
def test_they_have_it_for_every_block_size_temperature_and_budget(
    gamma: int, temperature: float, budget: str, table: Table
) -> None:
    check_law("3 tokens", gamma, temperature, budget, table, count=MANY)


@pytest.mark.long
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("name", "gamma"),
    [("4 tokens", 1), ("4 tokens", 3), ("2 tokens", 5), ("2 tokens", 6), ("2 tokens", 7)],
)
def test_so_have_other_pairs_under_a_budget_that_never_rests(
    name: str, gamma: int, temperature: float, table: Table
) -> None:
    check_law(name, gamma, temperature, "changing", table, count=MANY)


def test_two_tenants_in_the_same_steps_keep_their_own_laws(table: Table) -> None:
    """Temperatures 0.5 and 1.3 alternate within every batch, over two cohorts."""
    pair = PAIRS["3 tokens"]
    seed = seeds_of("tenants")
    cold = sessions(pair, 0.5, seed, FEW)
    hot = sessions(pair, 1.3, seed + FEW, FEW)
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


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(DeafTarget, marks=pytest.mark.long),
        TrustingTarget,
        pytest.param(LenientTarget, marks=pytest.mark.long),
    ],
)
def test_control_a_target_that_commits_something_else(wrong: type[ToyTarget], table: Table) -> None:
    pair = PAIRS["3 tokens"]
    generations = sessions(pair, 1.0, seeds_of("control"), FEW)
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
    generations = sessions(drafter.pair, temperature, seeds_of(case), FEW)
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
