import heapq
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dspark.core.admission import SessionDraft, admit, admit_causal, admit_top
from dspark.core.budget import ALL, DISABLED, OFF
from dspark.core.curve import Curve, ramp_seconds, step_seconds
from dspark.core.draft import survivals
from dspark.core.ids import SessionId
from tests.fleet_examples import a_curve

LINEAR = a_curve({n: 10.0 + n for n in range(1, 40)}, sessions=range(1, 8))
STAIRS = a_curve({1: 1.0, 2: 2.0, 5: 2.05, 12: 4.0, 13: 9.0, 40: 9.5}, sessions=range(1, 8))


def drafts_of(rows: list[tuple[float, ...]]) -> list[SessionDraft]:
    return [SessionDraft(session=SessionId(i), survivals=row) for i, row in enumerate(rows)]


# Few distinct values, so that ties within and across sessions are the rule.
confidence = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])
blocks = st.lists(
    st.lists(confidence, max_size=4).map(lambda values: survivals(values)), min_size=1, max_size=4
)
any_blocks = st.lists(
    st.lists(st.floats(0, 1), max_size=5).map(lambda values: survivals(values)),
    min_size=1,
    max_size=5,
)


def frontier_walk(drafts: list[SessionDraft], budget_tokens: int) -> dict[SessionId, int]:
    """Top-K by a heap that sees only each session's next draft: causal by construction."""
    lengths = {draft.session: 0 for draft in drafts}
    by_session = {draft.session: draft.survivals for draft in drafts}
    frontier = [(-d.survivals[0], 1, d.session) for d in drafts if d.survivals]
    heapq.heapify(frontier)
    while frontier and budget_tokens:
        minus_survival, position, session = heapq.heappop(frontier)
        if minus_survival == 0:
            break
        lengths[session] = position
        budget_tokens -= 1
        if position < len(by_session[session]):
            heapq.heappush(frontier, (-by_session[session][position], position + 1, session))
    return lengths


def expected_tokens(drafts: list[SessionDraft], lengths: dict[SessionId, int]) -> float:
    return len(drafts) + sum(sum(d.survivals[: lengths[d.session]]) for d in drafts)


def best_by_brute_force(
    drafts: list[SessionDraft], curve: Curve, sizes: list[int] | None = None
) -> float:
    """The largest Theta over all prefix lengths whatever."""
    best = 0.0
    for choice in product(*(range(len(d.survivals) + 1) for d in drafts)):
        if sizes is not None and sum(choice) not in sizes:
            continue
        lengths = dict(zip([d.session for d in drafts], choice, strict=True))
        best = max(best, theta_of(drafts, lengths, curve))
    return best


def theta_of(drafts: list[SessionDraft], lengths: dict[SessionId, int], curve: Curve) -> float:
    tokens = len(drafts) + sum(lengths.values())
    cost_s = step_seconds(curve, sessions=len(drafts), batch_tokens=tokens, context_tokens=64)
    return expected_tokens(drafts, lengths) / cost_s


@given(any_blocks, st.integers(0, 20))
def test_top_k_equals_a_frontier_walk(rows: list[tuple[float, ...]], k: int) -> None:
    drafts = drafts_of(rows)
    assert admit_top(drafts, k) == frontier_walk(drafts, k)


@given(blocks, st.integers(0, 12))
def test_top_k_equals_a_frontier_walk_where_everything_ties(
    rows: list[tuple[float, ...]], k: int
) -> None:
    drafts = drafts_of(rows)
    assert admit_top(drafts, k) == frontier_walk(drafts, k)


@given(blocks, st.integers(0, 12))
def test_top_k_gains_as_much_as_brute_force(rows: list[tuple[float, ...]], k: int) -> None:
    drafts = drafts_of(rows)
    free = a_curve({1: 1.0, 1000: 1.0})
    best = best_by_brute_force(drafts, free, sizes=list(range(k + 1)))
    assert expected_tokens(drafts, admit_top(drafts, k)) == pytest.approx(best)


@given(blocks, st.integers(0, 12), st.data())
def test_the_order_of_the_drafts_does_not_matter(
    rows: list[tuple[float, ...]], k: int, data: st.DataObject
) -> None:
    drafts = drafts_of(rows)
    shuffled = data.draw(st.permutations(drafts))
    assert admit_top(shuffled, k) == admit_top(drafts, k)
    assert admit_causal(shuffled, LINEAR, 64) == admit_causal(drafts, LINEAR, 64)


@given(any_blocks, st.integers(0, 20), st.data())
def test_no_admission_depends_on_its_own_session_s_later_drafts(
    rows: list[tuple[float, ...]], k: int, data: st.DataObject
) -> None:
    """Change a tail: whether anything before it (and its first draft) is admitted must stay."""
    session = data.draw(st.integers(0, len(rows) - 1))
    assume(rows[session])
    known = data.draw(st.integers(1, len(rows[session])))
    tail = data.draw(st.lists(st.floats(0, 1), max_size=3))
    row = rows[session][:known]
    changed = [*rows]
    changed[session] = row + tuple(row[-1] * a for a in survivals(tail))
    for rule in (
        lambda d: admit_top(d, k),
        lambda d: admit_causal(d, LINEAR, 64),
        lambda d: admit_causal(d, STAIRS, 64),
    ):
        before = rule(drafts_of(rows))[SessionId(session)]
        after = rule(drafts_of(changed))[SessionId(session)]
        assert min(before, known) == min(after, known)


@given(any_blocks, st.integers(0, 3))
def test_algorithm_1_is_its_own_pseudocode(rows: list[tuple[float, ...]], plain: int) -> None:
    drafts = drafts_of(rows)
    sessions = len(drafts) + plain

    def sps(tokens: int) -> float:
        return 1 / step_seconds(LINEAR, sessions=sessions, batch_tokens=tokens, context_tokens=64)

    candidates = sorted(
        (-a, position, draft.session)
        for draft in drafts
        for position, a in enumerate(draft.survivals, 1)
        if a > 0
    )
    lengths = {draft.session: 0 for draft in drafts}
    tokens, expected, best = sessions, float(sessions), sessions * sps(sessions)
    for minus_survival, position, session in candidates:
        tokens, expected = tokens + 1, expected - minus_survival
        if expected * sps(tokens) <= best:
            break
        best = expected * sps(tokens)
        lengths[session] = position
    assert admit_causal(drafts, LINEAR, 64, plain) == lengths


@given(blocks)
def test_algorithm_1_finds_the_best_where_cost_is_convex(rows: list[tuple[float, ...]]) -> None:
    drafts = drafts_of(rows)
    lengths = admit_causal(drafts, LINEAR, 64)
    assert theta_of(drafts, lengths, LINEAR) == pytest.approx(best_by_brute_force(drafts, LINEAR))


def test_algorithm_1_climbs_a_stair_that_one_draft_alone_would_not_pay_for() -> None:
    drafts = drafts_of([(0.9, 0.85, 0.8, 0.8)])
    assert theta_of(drafts, {SessionId(0): 1}, STAIRS) < theta_of(drafts, {SessionId(0): 0}, STAIRS)
    causal = admit_causal(drafts, STAIRS, 64)
    assert causal == {0: 4}
    assert theta_of(drafts, causal, STAIRS) == best_by_brute_force(drafts, STAIRS)


def test_algorithm_1_stops_at_a_stair_that_no_number_of_drafts_pays_for() -> None:
    drafts = drafts_of([(0.2, 0.2, 0.2, 0.2)])
    assert admit_causal(drafts, STAIRS, 64) == {0: 0}


@given(blocks)
def test_on_a_staircase_algorithm_1_finds_the_best_of_the_ramp_below_it(
    rows: list[tuple[float, ...]],
) -> None:
    drafts = drafts_of(rows)
    sessions, most = len(drafts), sum(len(draft.survivals) for draft in drafts)
    ramp_s = ramp_seconds(
        STAIRS,
        sessions=sessions,
        batch_tokens=sessions + np.arange(most + 1),
        context_tokens=64,
    )
    expected = [expected_tokens(drafts, admit_top(drafts, k)) for k in range(most + 1)]
    found = sum(admit_causal(drafts, STAIRS, 64).values())
    best = max(tokens / seconds for tokens, seconds in zip(expected, ramp_s, strict=True))
    assert expected[found] / ramp_s[found] == pytest.approx(best)


def test_equal_drafts_go_by_position_and_then_by_session() -> None:
    drafts = drafts_of([(0.5, 0.5), (0.5, 0.5)])
    assert [admit_top(drafts, k) for k in range(5)] == [
        {0: 0, 1: 0}, {0: 1, 1: 0}, {0: 1, 1: 1}, {0: 2, 1: 1}, {0: 2, 1: 2}
    ]  # fmt: skip


def test_a_survival_of_zero_is_never_admitted_by_rank() -> None:
    drafts = drafts_of([(0.5, 0.0, 0.0)])
    assert admit_top(drafts, 3) == {0: 1}
    assert admit_causal(drafts, a_curve({1: 1.0, 9: 1.0}), 64) == {0: 1}


def test_a_survival_that_is_no_number_cuts_its_own_tail_only() -> None:
    drafts = drafts_of([(0.5, float("nan"), 0.4), (0.3,)])
    assert admit_top(drafts, 9) == {0: 1, 1: 1}


def test_a_survival_that_rises_counts_as_its_predecessor() -> None:
    drafts = drafts_of([(0.2, 0.9), (0.5,)])
    assert admit_top(drafts, 1) == {0: 0, 1: 1}
    assert admit_top(drafts, 2) == {0: 1, 1: 1}


def test_plain_sessions_make_the_step_dearer() -> None:
    drafts = drafts_of([(0.3,)])
    curve = a_curve({1: 10.0, 2: 12.0, 9: 20.0, 10: 24.0}, sessions=(1, 9))
    assert admit_causal(drafts, curve, 64) == {0: 1}
    assert admit_causal(drafts, curve, 64, plain_sessions=8) == {0: 0}


def test_nothing_drafted_is_nothing_admitted() -> None:
    assert admit_top([], 5) == {}
    assert admit_causal(drafts_of([(), ()]), LINEAR, 64) == {0: 0, 1: 0}


def test_a_negative_budget_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="-3 tokens"):
        admit_top([], -3)


@pytest.mark.parametrize(
    ("entry", "curve", "lengths", "said"),
    [
        (OFF, LINEAR, {0: 0, 1: 0}, "off"),
        (DISABLED, LINEAR, {0: 0, 1: 0}, "off"),
        (ALL, LINEAR, {0: 2, 1: 2}, "all"),
        (1, LINEAR, {0: 1, 1: 0}, "1 of 4"),
        (0, LINEAR, {0: 0, 1: 0}, "0 of 4"),
        (None, a_curve({2: 1.0, 3: 9.0, 4: 99.0}), {0: 0, 1: 0}, "causal"),
        (None, a_curve({1: 1.0, 9: 1.0}), {0: 2, 1: 2}, "flat"),
        (None, None, {0: 2, 1: 2}, "missing"),
    ],
)
def test_the_rule_follows_what_is_known(
    entry: int | None, curve: Curve | None, lengths: dict[int, int], said: str
) -> None:
    drafts = drafts_of([(0.9, 0.5), (0.8, 0.1)])
    admission = admit(drafts, entry=entry, curve=curve, context_tokens=64)
    assert admission.lengths == lengths
    assert said in admission.reason


def test_the_longer_a_round_waits_beside_its_step_the_more_is_admitted() -> None:
    drafts = drafts_of([survivals([0.6] * 4), survivals([0.5] * 4)])
    admitted = [
        sum(admit_causal(drafts, LINEAR, 64, wait_s=wait_s).values())
        for wait_s in (0.0, 10.0, 100.0, 1e6)
    ]
    assert admitted == sorted(admitted)
    assert admitted[0] < admitted[-1] == 8


def test_a_prompt_in_the_step_makes_drafts_dearer_and_commits_nothing() -> None:
    curve = a_curve({1: 10.0, 8: 10.1, 64: 12.0, 65: 13.0, 128: 77.0})
    drafts = drafts_of([survivals([0.5] * 4)])
    assert admit_causal(drafts, curve, 64) == {0: 4}
    assert admit_causal(drafts, curve, 64, prompt_tokens=64) == {0: 3}
    assert admit(drafts, entry=None, curve=curve, context_tokens=64, prompt_tokens=64).lengths == {
        0: 3
    }


def test_weights_share_a_budget_out_and_nothing_else() -> None:
    plain = drafts_of([(0.9, 0.8), (0.9, 0.8), (0.9, 0.8)])
    weighed = [plain[0], plain[1]._replace(weight=2.0), plain[2]._replace(weight=0.5)]
    assert admit_top(plain, 3) == {0: 1, 1: 1, 2: 1}
    assert admit_top(weighed, 3) == {0: 1, 1: 2, 2: 0}
    assert admit_top(weighed, ALL) == admit_top(plain, ALL)
    assert admit_causal(weighed, LINEAR, 64) == admit_causal(plain, LINEAR, 64)


@given(any_blocks, st.lists(st.floats(0.01, 100), min_size=5, max_size=5), st.integers(0, 12))
def test_weights_move_no_draft_before_its_own_predecessor_nor_ask_what_comes_after(
    rows: list[tuple[float, ...]], weights: list[float], budget_tokens: int
) -> None:
    drafts = [
        draft._replace(weight=weights[draft.session % 5]) for draft in drafts_of(rows)
    ]  # fmt: skip
    lengths = admit_top(drafts, budget_tokens)
    assert sum(lengths.values()) <= budget_tokens
    # What is admitted of one session does not change with its own survivals beyond the cut.
    for draft in drafts:
        cut = lengths[draft.session]
        shorter = draft._replace(survivals=draft.survivals[: cut + 1])
        others = [one for one in drafts if one.session != draft.session]
        assert admit_top([*others, shorter], budget_tokens)[draft.session] == cut
