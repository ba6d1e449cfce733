"""The paper's Appendix A by exact enumeration: what an admission rule does to the output's law.

One request decodes over the vocabulary {A, B} with p = (.7, .3) and q = (.5, .5).  c_1 = .8, and
c_2 is high after x_1 = A and 0 after x_1 = B, as a head that sees the previous token may say.
A rule is lossless iff the first output token still has the law p.  The biased rules below are
negative controls: each of them must be caught.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
import pytest

from dspark.core.admission import SessionDraft, admit, admit_causal, admit_top
from dspark.core.curve import Curve, sps
from dspark.core.ids import SessionId
from tests.fleet_examples import a_curve

P = {"A": Fraction(7, 10), "B": Fraction(3, 10)}
Q = {"A": Fraction(1, 2), "B": Fraction(1, 2)}
BIASED = {"A": Fraction(85, 100), "B": Fraction(15, 100)}

CURVE = a_curve({1: 1 / 1.0, 2: 1 / 0.5, 3: 1 / 0.45}, sessions=(1,))
WATCHED, OTHER = SessionId(0), SessionId(1)

Rule = Callable[[list[SessionDraft]], Mapping[SessionId, int]]


def law(rule: Rule, *, c_2: float, others: tuple[float, ...] = ()) -> dict[str, Fraction]:
    """The law of the watched request's first output token, by enumeration over its draft x_1."""
    output = {"A": Fraction(0), "B": Fraction(0)}
    surplus = {token: max(P[token] - Q[token], Fraction(0)) for token in P}
    for x_1, chance in Q.items():
        a_1 = 0.8
        drafts = [SessionDraft(session=WATCHED, survivals=(a_1, a_1 * c_2 * (x_1 == "A")))]
        if others:
            drafts.append(SessionDraft(session=OTHER, survivals=others))
        if rule(drafts)[WATCHED] == 0:
            for token in P:
                output[token] += chance * P[token]
            continue
        accepted = min(Fraction(1), P[x_1] / Q[x_1])
        output[x_1] += chance * accepted
        for token in P:
            share = surplus[token] / sum(surplus.values())
            output[token] += chance * (1 - accepted) * share
    return output


# --- the rules in use ---------------------------------------------------------------------------


@pytest.mark.parametrize("c_2", [0.0, 0.5, 0.9, 1.0])
def test_algorithm_1_keeps_the_target_s_law(c_2: float) -> None:
    assert law(lambda drafts: admit_causal(drafts, CURVE, 64), c_2=c_2) == P


@pytest.mark.parametrize("k", range(6))
@pytest.mark.parametrize("c_2", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("others", [(), (0.8,), (0.8, 0.8), (0.9, 0.3)])
def test_a_budget_fixed_beforehand_keeps_it_for_every_k(
    k: int, c_2: float, others: tuple[float, ...]
) -> None:
    assert law(lambda drafts: admit_top(drafts, k), c_2=c_2, others=others) == P


@pytest.mark.parametrize("entry", [None, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("curve", [CURVE, None])
def test_whatever_is_known_the_rule_chosen_keeps_it(entry: int | None, curve: Curve | None) -> None:
    def rule(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
        return admit(drafts, entry=entry, curve=curve, context_tokens=64).lengths

    for others in ((), (0.8, 0.8)):
        assert law(rule, c_2=1.0, others=others) == P


# --- negative controls --------------------------------------------------------------------------


def test_control_a_global_search_on_the_drafts_themselves_is_biased() -> None:
    """Without the early stop the best size is chosen with x_1 in view: the paper's example."""

    def rule(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
        survivals = drafts[0].survivals

        def theta(length: int) -> float:
            rate = sps(CURVE, sessions=1, batch_tokens=1 + length, context_tokens=64)
            return (1 + sum(survivals[:length])) * rate

        return {WATCHED: max(range(3), key=theta)}

    assert law(rule, c_2=0.9) == BIASED


def test_control_ties_broken_by_index_are_biased() -> None:
    """c_2 = 1 makes a_2 = a_1: a sort that takes the last of equals sees what x_1 was."""

    def rule(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
        survivals = np.array([draft.survivals for draft in drafts])  # [session, position]
        by_position = survivals.T.ravel()
        chosen = np.argsort(by_position, kind="stable")[::-1][:1]  # K = 1
        lengths = {draft.session: 0 for draft in drafts}
        for index in chosen.tolist():
            session = drafts[index % len(drafts)].session
            lengths[session] = max(lengths[session], index // len(drafts) + 1)
        return lengths

    assert law(rule, c_2=1.0, others=(0.8, 0.0)) == BIASED
    assert law(lambda drafts: admit_top(drafts, 1), c_2=1.0, others=(0.8, 0.0)) == P


def test_control_dropping_a_block_because_its_tail_looks_bad_is_biased() -> None:
    def rule(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
        return {WATCHED: 2 if drafts[0].survivals[-1] > 0.5 else 0}

    assert law(rule, c_2=0.9) == BIASED


def test_control_a_budget_made_of_the_drafts_to_be_judged_is_biased() -> None:
    def rule(drafts: list[SessionDraft]) -> Mapping[SessionId, int]:
        budget = sum(survival > 0.5 for draft in drafts for survival in draft.survivals)
        return admit_top(drafts, budget if budget > 1 else 0)

    assert law(rule, c_2=0.9) == BIASED


# --- the other half: drafts drawn from another law than the one the verifier is told ------------

Law = Mapping[str, Fraction]


def output_law(p: Law, drawn: Law, told: Law) -> dict[str, Fraction]:
    """The law of the first token when drafts are ``drawn`` from one q and judged by another."""
    surplus = {token: max(p[token] - told[token], Fraction(0)) for token in p}
    mass = sum(surplus.values())
    output = dict.fromkeys(p, Fraction(0))
    for x_1, chance in drawn.items():
        # A draft that the q told holds impossible has an infinite ratio: accepted.
        accepted = min(Fraction(1), p[x_1] / told[x_1]) if told[x_1] else Fraction(1)
        output[x_1] += chance * accepted
        for token in p:
            share = surplus[token] / mass if mass else p[token]
            output[token] += chance * (1 - accepted) * share
    return output


def law_of(**percent: int) -> dict[str, Fraction]:
    return {token: Fraction(share, 100) for token, share in percent.items()}


P_3 = law_of(A=50, B=20, C=30)
Q_3 = law_of(A=20, B=50, C=30)


def top_2(law: Law) -> dict[str, Fraction]:
    kept = sorted(law, key=lambda token: -law[token])[:2]
    mass = sum(law[token] for token in kept)
    return {token: law[token] / mass if token in kept else Fraction(0) for token in law}


def argmaxed(law: Law) -> dict[str, Fraction]:
    best = max(law, key=lambda token: law[token])
    return {token: Fraction(token == best) for token in law}


def more_confident_of_two(law: Law, confidence: Mapping[str, float]) -> dict[str, Fraction]:
    """Two drafters answer, each with a draft from ``law``; the more confident one is taken."""
    chosen = dict.fromkeys(law, Fraction(0))
    for one, chance in law.items():
        for other, other_chance in law.items():
            taken = one if confidence[one] >= confidence[other] else other
            chosen[taken] += chance * other_chance
    return chosen


@pytest.mark.parametrize("change", [dict, top_2, argmaxed])
def test_drafts_drawn_from_the_q_told_keep_the_law(change: Callable[[Law], Law]) -> None:
    """Whatever is done to q is done before drawing from it: soft, cut or one-hot."""
    for p, q in ((P, Q), (P_3, Q_3), (Q_3, P_3)):
        assert output_law(p, drawn=change(q), told=change(q)) == p


def test_the_first_of_two_replies_keeps_the_law() -> None:
    """Which one is first depends on the network and not on what was drafted."""
    late = more_confident_of_two(Q, {"A": 0.5, "B": 0.5})  # ties go to the first
    assert output_law(P, drawn=late, told=Q) == P


def test_control_the_more_confident_of_two_replies_is_biased() -> None:
    """c_2 is .9 after A and 0 after B, so that the better block is the one that drafted A."""
    drawn = more_confident_of_two(Q, {"A": 0.9, "B": 0.0})
    assert output_law(P, drawn=drawn, told=Q) == BIASED


def test_control_argmaxed_drafts_with_a_soft_q_are_biased() -> None:
    assert output_law(P_3, drawn=argmaxed(Q_3), told=Q_3) == law_of(A=60, B=40, C=0)


def test_control_cutting_only_the_copy_on_the_wire_is_biased() -> None:
    """A is drawn in a fifth of the rounds and was cut from the copy: it is always accepted."""
    biased = output_law(P_3, drawn=Q_3, told=top_2(Q_3))
    assert biased != P_3
    assert biased["A"] > Fraction(55, 100)
