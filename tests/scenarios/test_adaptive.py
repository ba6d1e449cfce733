"""Adaptive verification against every fixed length, in virtual time at a GPU's ratios.

Both ways to be adaptive: the planner's table, from committed rounds; and Algorithm 1, where there
is no budget.  Nothing here depends on the machine.  ``python -m tests.scenarios.test_adaptive``
prints the figures.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from dspark.config.paced import PacedSettings
from dspark.core.admission import SessionDraft, admit_causal, admit_top
from dspark.core.budget import ALL, ContextBucket
from dspark.core.ids import ReplicaName
from dspark.core.policy import Rules
from dspark.core.reservoir import Reservoir, pool_survivals
from dspark.core.table import make_table
from dspark.core.theta import DraftCost
from tests.scenarios.twin import GAMMA, Lengths, Rule, Run, Twin

CONFIG = Path(__file__).parents[2] / "configs" / "paced.yaml"
LOADS = (1, 4, 16, 32, 64)


@cache
def twin() -> Twin:
    settings = yaml.safe_load(CONFIG.read_text())["model"]["paced"]
    return Twin(PacedSettings.model_validate(settings))


def steps(users: int) -> int:
    return max(3200 // users, 150)


@cache
def fixed(users: int, length: int) -> Run:
    return twin().run(
        users, lambda drafts, _: admit_top(drafts, ALL), steps=steps(users), max_tokens=length
    )


def best_fixed(users: int) -> float:
    return max(fixed(users, length).tokens_per_s for length in (2, 3, 4, 5, 7))


def algorithm_1() -> Rule:
    curve = twin().curve()
    return lambda drafts, wait_s: admit_causal(drafts, curve, 132.0, wait_s=wait_s)


def planned(users: int) -> Rule:
    """A table from the rounds committed so far, made again every so many steps."""
    curve = twin().curve()
    cost = DraftCost(
        curve=twin().drafter_curve(),
        observed_round_s=twin().draft_round_s(users),
        observed_sessions=users,
    )
    reservoir = Reservoir(512)
    table: tuple[ContextBucket, ...] = ()
    number = 0

    def rule(drafts: Sequence[SessionDraft], wait_s: float) -> Lengths:
        nonlocal table, number
        if number % 16 == 0 and len(reservoir) >= 32:
            table = make_table(
                pool_survivals(reservoir.vectors()), curve, cost, Rules(),
                active_sessions=users, max_sessions=64, max_cohorts=1, previous=table,
            )  # fmt: skip
        number += 1
        whole = [draft.survivals for draft in drafts if len(draft.survivals) == GAMMA]
        reservoir.add(ReplicaName("v"), whole)
        return admit_top(drafts, table[0].draft_tokens[users - 1] if table else ALL)

    return rule


@pytest.mark.parametrize("users", LOADS)
def test_algorithm_1_is_as_fast_as_the_best_fixed_length_or_faster(users: int) -> None:
    found = twin().run(users, algorithm_1(), steps=steps(users))
    assert found.tokens_per_s >= 0.999 * best_fixed(users)


@pytest.mark.parametrize("users", LOADS)
def test_a_planned_budget_is_as_fast_as_the_best_fixed_length_or_faster(users: int) -> None:
    found = twin().run(users, planned(users), steps=steps(users))
    assert found.tokens_per_s >= 0.995 * best_fixed(users)


def test_under_load_both_gain_what_no_fixed_length_can() -> None:
    for rule in (algorithm_1(), planned(64)):
        assert twin().run(64, rule, steps=steps(64)).tokens_per_s > 1.02 * best_fixed(64)


def test_the_budget_shrinks_as_the_load_grows() -> None:
    """The paper's Figure 8."""
    verified = [twin().run(users, planned(users), steps=steps(users)).verified for users in LOADS]
    assert verified[0] > 6
    assert all(more < less + 0.05 for less, more in pairwise(verified))
    assert verified[-1] < 4.5


def test_control_a_budget_of_another_load_is_caught() -> None:
    found = twin().run(64, lambda drafts, _: admit_top(drafts, 8), steps=steps(64))
    assert found.tokens_per_s < 0.95 * best_fixed(64)


def main() -> None:
    """Print tokens a second over those of no drafting, and drafts verified of a session's step."""
    print("users  best fixed  fixed:7  planned  Algorithm 1  verified: planned, Algorithm 1")
    for users in LOADS:
        off = twin().run(users, None, steps=steps(users)).tokens_per_s
        plan, causal = (
            twin().run(users, rule, steps=steps(users)) for rule in (planned(users), algorithm_1())
        )
        print(
            f"{users:>5}  {best_fixed(users) / off:>10.2f}  "
            f"{fixed(users, GAMMA).tokens_per_s / off:>7.2f}  {plan.tokens_per_s / off:>7.2f}  "
            f"{causal.tokens_per_s / off:>11.2f}  {plan.verified:>17.1f}, {causal.verified:.1f}"
        )


if __name__ == "__main__":
    main()
