from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from dspark.core.budget import ALL, OFF
from dspark.core.draft import DraftBlock, DraftStatus
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import SessionId
from dspark.core.pages import PageTable
from dspark.core.sampling import Sampling
from dspark.core.session import Phase
from dspark.verifier.session import VerifierSession
from dspark.verifier.step import VerifyStep, plan_step
from tests.fleet_examples import a_curve
from tests.verifier.harness import Collected


def a_session(number: int, length: int = 10, *, computed: int | None = None) -> VerifierSession:
    """A decoding session of this many tokens, or one whose prompt is computed so far."""
    generation = Generation(
        request_id="r", prompt=(1,), max_new_tokens=999, sampling=Sampling(seed=number)
    )
    session = VerifierSession(
        id=SessionId(number),
        generation=generation,
        sink=Collected(),
        tokens=[100 * number + position for position in range(length)],
        stats=GenerationStats(block_size=7),
        arrived_s=0.0,
        table=PageTable(pages=(number,), cached_tokens=0),
        computed=length - 1 if computed is None else computed,
    )
    session.enter(Phase.PREFILLING)
    return session


def a_block(session: int, *confidences: float) -> DraftBlock:
    return DraftBlock(
        session=SessionId(session),
        base_length=9,
        status=DraftStatus.OK,
        tokens=tuple(range(50, 50 + len(confidences))),
        confidences=confidences,
    )


def plan(
    decoding: Sequence[VerifierSession],
    *blocks: DraftBlock,
    prefilling: Sequence[VerifierSession] = (),
    entry: int | None = ALL,
    max_batch_tokens: int = 64,
    weights: Mapping[int, float] | None = None,
) -> VerifyStep:
    return plan_step(
        decoding,
        prefilling,
        {block.session: block for block in blocks},
        entry=entry,
        curve=None,
        max_batch_tokens=max_batch_tokens,
        prefill_chunk_tokens=8,
        weights=weights or {},
    )


def lengths(step: VerifyStep) -> list[int]:
    return [len(drafts) for drafts in step.drafts]


def test_a_session_without_a_draft_goes_plainly() -> None:
    step = plan([a_session(1)])
    (segment,) = step.segments
    assert (segment.tokens, segment.start, segment.choose, segment.pages) == ((109,), 9, 1, (1,))
    assert segment.sampling.seed == 1
    assert (step.proposed, step.survivals, step.drafts) == ((0,), ((),), ((),))


def test_a_verified_prefix_follows_the_anchor_and_wants_one_token_more() -> None:
    step = plan([a_session(1)], a_block(1, 0.9, 0.8, 0.7))
    (segment,) = step.segments
    assert segment.tokens == (109, 50, 51, 52)
    assert segment.choose == 4
    assert step.survivals[0] == pytest.approx((0.9, 0.72, 0.504))


def test_a_budget_keeps_the_likeliest_drafts_of_all_sessions() -> None:
    sessions = [a_session(1), a_session(2), a_session(3)]
    step = plan(sessions, a_block(1, 0.9, 0.9), a_block(3, 0.5, 0.5), entry=3)
    assert lengths(step) == [2, 0, 1]
    assert step.proposed == (2, 0, 2)
    assert step.batch_tokens == 6


def test_a_budget_of_none_verifies_nothing() -> None:
    assert lengths(plan([a_session(1)], a_block(1, 1.0), entry=0)) == [0]


def test_drafts_under_off_are_probes_and_verified_as_a_whole() -> None:
    assert lengths(plan([a_session(1)], a_block(1, 0.1, 0.1), entry=OFF)) == [2]


def test_without_a_budget_the_own_curve_decides() -> None:
    step = plan_step(
        [a_session(1)],
        [],
        {SessionId(1): a_block(1, 0.9, 0.1)},
        entry=None,
        curve=a_curve({1: 1.0, 2: 1.1, 3: 2.0}),
        max_batch_tokens=64,
        prefill_chunk_tokens=8,
    )
    assert lengths(step) == [1]
    assert "no budget" in step.reason


@pytest.mark.parametrize("max_batch_tokens", range(3, 13))
def test_the_batch_is_bounded_and_every_session_has_its_token(max_batch_tokens: int) -> None:
    sessions = [a_session(1), a_session(2), a_session(3)]
    blocks = [a_block(number, 0.9, 0.8, 0.7) for number in (1, 2, 3)]
    step = plan(sessions, *blocks, max_batch_tokens=max_batch_tokens)
    assert step.batch_tokens == min(max_batch_tokens, 12)
    assert len(step.segments) == 3


def test_the_bound_cuts_by_survival_position_and_session() -> None:
    sessions = [a_session(1), a_session(2)]
    step = plan(sessions, a_block(1, 0.5, 0.5), a_block(2, 0.5, 0.9), max_batch_tokens=5)
    assert lengths(step) == [1, 2]
    assert "cut to 3" in step.reason


def test_the_bound_does_not_widen_what_the_budget_narrowed() -> None:
    sessions = [a_session(1), a_session(2)]
    step = plan(sessions, a_block(1, 0.9, 0.9), a_block(2, 0.1), entry=2, max_batch_tokens=3)
    assert lengths(step) == [1, 0]


def test_a_prompt_runs_in_chunks_and_only_its_last_one_chooses() -> None:
    for computed, tokens, choose in ((0, 8, 0), (8, 8, 0), (16, 4, 1)):
        step = plan([], prefilling=[a_session(1, 20, computed=computed)])
        (segment,) = step.segments
        assert (segment.start, len(segment.tokens), segment.choose) == (computed, tokens, choose)
        assert step.prefilling[0][1] == tokens


def test_prompts_share_what_room_there_is_in_order() -> None:
    prompts = [a_session(number, 20, computed=0) for number in (1, 2, 3)]
    step = plan([], prefilling=prompts, max_batch_tokens=13)
    assert [(session.id, count) for session, count in step.prefilling] == [(1, 8), (2, 5)]


def test_a_prompt_goes_on_however_much_is_drafted() -> None:
    sessions = [a_session(number) for number in (1, 2, 3)]
    blocks = [a_block(number, *[0.99] * 7) for number in (1, 2, 3)]
    prompt = a_session(4, 20, computed=0)
    step = plan(sessions, *blocks, prefilling=[prompt], max_batch_tokens=16)
    assert [(session.id, count) for session, count in step.prefilling] == [(4, 8)]
    assert step.batch_tokens == 16
    assert sum(lengths(step)) == 5


def test_prompts_come_after_the_sessions_in_the_batch() -> None:
    step = plan([a_session(1)], a_block(1, 0.9), prefilling=[a_session(2, 4, computed=0)])
    assert [segment.tokens[0] for segment in step.segments] == [109, 200]


def test_a_budget_is_shared_out_by_priority() -> None:
    sessions = [a_session(1), a_session(2)]
    urgent = sessions[1].generation
    sessions[1].generation = replace(urgent, priority=-5)
    blocks = (a_block(1, 0.9, 0.9), a_block(2, 0.8, 0.8))
    assert lengths(plan(sessions, *blocks, entry=2)) == [2, 0]
    assert lengths(plan(sessions, *blocks, entry=2, weights={-5: 2.0})) == [0, 2]
    assert lengths(plan(sessions, *blocks, entry=2, weights={7: 9.0})) == [2, 0]
    # A batch without room shares out the same way.
    narrow = plan(sessions, *blocks, entry=ALL, max_batch_tokens=4, weights={-5: 2.0})
    assert lengths(narrow) == [0, 2]
