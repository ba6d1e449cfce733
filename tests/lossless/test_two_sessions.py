"""The joint law of two sessions under every admission rule, by exact enumeration.

Two sessions of 2 tokens and blocks of 3 share a step; p, q and the confidences are tables over
the previous token.  Drafts are judged by rejection, which is biased as soon as admission looks at
what it may not.  All 64 pairs of blocks are enumerated, in rational numbers: the joint law of the
first three tokens of both sessions (64 outcomes) must be the product of the targets' own laws.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from dspark.core.admission import SessionDraft, admit_causal, admit_top
from dspark.core.budget import ALL
from dspark.core.curve import sps
from dspark.core.draft import survivals
from dspark.core.ids import SessionId
from tests.fleet_examples import a_curve
from tests.lossless.conftest import Table

GAMMA = 3
Block = tuple[int, ...]
Law = dict[Block, Fraction]
Rows = tuple[tuple[Fraction, Fraction], ...]
Rule = Callable[[list[SessionDraft]], Mapping[SessionId, int]]

BLOCKS = list(product(range(2), repeat=GAMMA))
CURVE = a_curve({tokens: 10.0 + 1.5 * tokens for tokens in range(1, 12)}, sessions=(1, 2))


def rows(*percent: int) -> Rows:
    """A table [previous token] of the laws (a, 1 - a)."""
    return tuple((Fraction(a, 100), Fraction(100 - a, 100)) for a in percent)


class Tenant:
    """One session: its target, its drafter, and how sure the drafter is after each token."""

    def __init__(self, p: Rows, q: Rows, confidence: tuple[float, float]) -> None:
        self.p, self.q, self.confidence = p, q, confidence

    def drafted(self, block: Block) -> Fraction:
        """The chance that this block is drafted, after token 0."""
        return chance(self.q, block)

    def survivals(self, block: Block) -> tuple[float, ...]:
        """The first confidence is fixed; each other one sees the token before."""
        return survivals((0.8, *(self.confidence[token] for token in block[:-1])))

    def law(self, block: Block, length: int) -> Law:
        """The law of three tokens when the first ``length`` drafts of this block are verified."""
        output: Law = dict.fromkeys(BLOCKS, Fraction(0))
        alive, previous = Fraction(1), 0
        for position in range(length):
            p, q, draft = self.p[previous], self.q[previous], block[position]
            accepted = min(Fraction(1), p[draft] / q[draft])
            surplus = [max(p[token] - q[token], Fraction(0)) for token in range(2)]
            for token in range(2):
                if accepted < 1:
                    share = alive * (1 - accepted) * surplus[token] / sum(surplus)
                    self._continue(output, (*block[:position], token), share)
            alive *= accepted
            previous = draft
        self._continue(output, block[:length], alive)
        return output

    def _continue(self, output: Law, start: Block, mass: Fraction) -> None:
        """Add the target's own continuations of ``start``."""
        if not mass:
            return
        for rest in product(range(2), repeat=GAMMA - len(start)):
            output[start + rest] += mass * chance(self.p, rest, start[-1] if start else 0)


def chance(table: Rows, block: Block, previous: int = 0) -> Fraction:
    result = Fraction(1)
    for token in block:
        result *= table[previous][token]
        previous = token
    return result


TENANTS = {
    "unlike": (
        Tenant(rows(70, 40), rows(50, 60), (0.9, 0.0)),
        Tenant(rows(25, 80), rows(60, 50), (0.25, 0.8)),
    ),
    # Saturated: every survival is .8 or 0, so that the order among equals decides.
    "tied": (
        Tenant(rows(70, 40), rows(50, 60), (1.0, 0.0)),
        Tenant(rows(25, 80), rows(60, 50), (0.0, 1.0)),
    ),
}


def joint_law(tenants: tuple[Tenant, Tenant], rule: Rule) -> dict[tuple[Block, Block], Fraction]:
    """Enumerate all pairs of blocks."""
    one, two = tenants
    laws = {
        (which, block, length): tenant.law(block, length)
        for which, tenant in enumerate(tenants)
        for block in BLOCKS
        for length in range(GAMMA + 1)
    }
    joint = dict.fromkeys(product(BLOCKS, BLOCKS), Fraction(0))
    for first, second in product(BLOCKS, BLOCKS):
        drafts = [
            SessionDraft(session=SessionId(0), survivals=one.survivals(first)),
            SessionDraft(session=SessionId(1), survivals=two.survivals(second)),
        ]
        lengths = rule(drafts)
        mass = one.drafted(first) * two.drafted(second)
        law_1 = laws[0, first, lengths[SessionId(0)]]
        law_2 = laws[1, second, lengths[SessionId(1)]]
        for a, b in joint:
            joint[a, b] += mass * law_1[a] * law_2[b]
    return joint


def own_laws(tenants: tuple[Tenant, Tenant]) -> dict[tuple[Block, Block], Fraction]:
    one, two = tenants
    return {(a, b): chance(one.p, a) * chance(two.p, b) for a, b in product(BLOCKS, BLOCKS)}


def distance(one: Mapping[object, Fraction], two: Mapping[object, Fraction]) -> float:
    """Total variation."""
    return float(sum(abs(one[key] - two[key]) for key in one) / 2)


@pytest.mark.parametrize("tenants", TENANTS.values(), ids=TENANTS)
@pytest.mark.parametrize("k", [ALL, *range(2 * GAMMA + 1)])
def test_the_joint_law_is_the_targets_own_under_every_k(
    k: int, tenants: tuple[Tenant, Tenant], table: Table
) -> None:
    joint = joint_law(tenants, lambda drafts: admit_top(drafts, k))
    assert joint == own_laws(tenants)
    table.exact(len(BLOCKS) ** 2, "exact: total variation 0")


@pytest.mark.parametrize("tenants", TENANTS.values(), ids=TENANTS)
def test_it_is_under_algorithm_1(tenants: tuple[Tenant, Tenant], table: Table) -> None:
    lengths = set()

    def rule(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
        chosen = admit_causal(drafts, CURVE, 64)
        lengths.add(tuple(chosen.values()))
        return chosen

    assert joint_law(tenants, rule) == own_laws(tenants)
    assert len(lengths) > 2, "the curve never made a difference: this proves nothing"
    table.exact(len(BLOCKS) ** 2, "exact: total variation 0")


# --- negative controls ------------------------------------------------------------------------


def global_search(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
    """The best size over these very drafts, behind a stair if need be."""
    stairs = a_curve({2: 1.0, 3: 2.1, 8: 2.2}, sessions=(1, 2))

    def theta(lengths: tuple[int, ...]) -> float:
        gained = sum(sum(d.survivals[:n]) for d, n in zip(drafts, lengths, strict=True))
        rate = sps(stairs, sessions=2, batch_tokens=2 + sum(lengths), context_tokens=64)
        return (2 + gained) * rate

    best = max(product(range(GAMMA + 1), repeat=2), key=theta)
    return {draft.session: n for draft, n in zip(drafts, best, strict=True)}


def index_order(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
    """Top 1 by a sort that takes the last of equals."""
    flat = np.array([draft.survivals for draft in drafts]).T.ravel()
    chosen = int(np.argsort(flat, kind="stable")[-1])
    lengths = {draft.session: 0 for draft in drafts}
    lengths[drafts[chosen % 2].session] = chosen // 2 + 1
    return lengths


def drop_bad_tails(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
    return {d.session: len(d.survivals) if d.survivals[-1] > 0.3 else 0 for d in drafts}


def uncommitted_budget(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
    """K from the blocks that are to be judged."""
    good = sum(survival > 0.5 for draft in drafts for survival in draft.survivals)
    return admit_top(drafts, good if good > 2 else 0)


@pytest.mark.parametrize("rule", [global_search, index_order, drop_bad_tails, uncommitted_budget])
def test_control_rules_that_look_ahead_change_the_joint_law(rule: Rule, table: Table) -> None:
    tenants = TENANTS["tied"]
    bias = distance(joint_law(tenants, rule), own_laws(tenants))
    table.exact(len(BLOCKS) ** 2, f"exact: total variation {bias:.3f}")
    assert bias > 0.01
