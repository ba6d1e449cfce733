import itertools
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from dspark.config.verifier import DraftingSettings, VerifierSettings
from dspark.core.budget import OFF
from dspark.core.curve import Curve, CurvePoint
from dspark.core.draft import Round
from dspark.core.generation import Generation
from dspark.core.ids import ReplicaName
from dspark.core.refinement import MAX_RATIO
from dspark.core.sampling import Sampling
from dspark.core.session import FinishReason
from dspark.local.memory_port import MemoryPort
from dspark.telemetry.metrics import REGISTRY
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.refusals import NeverFits, Overloaded
from dspark.verifier.target_port import Segment
from tests.fakes import FakeDrafter, FakeTarget, continuation
from tests.fleet_examples import a_curve
from tests.verifier.harness import GAMMA, Collected, System, running

GREEDY = Sampling()


def ask(prompt: list[int], count: int = 40, sampling: Sampling = GREEDY, **more) -> Generation:  # type: ignore[no-untyped-def]
    return Generation(
        request_id="r", prompt=tuple(prompt), max_new_tokens=count, sampling=sampling, **more
    )


@pytest.mark.parametrize("cohorts", [1, 2])
@pytest.mark.parametrize(
    "budget", [FixedBudget(), FixedBudget(3), FixedBudget(0), FixedBudget(OFF)]
)
def test_output_is_the_targets_own_under_every_budget(cohorts: int, budget: FixedBudget) -> None:
    with running(System(cohorts=cohorts, budget=budget)) as system:
        system.add_drafter("d1")
        prompts = [[seed, seed + 1, seed + 2] for seed in range(6)]
        sinks = [
            system.generate(ask(prompt, sampling=Sampling(temperature=0.9, seed=7)))
            for prompt in prompts
        ]
        for prompt, sink in zip(prompts, sinks, strict=True):
            expected = continuation(prompt, 40, Sampling(temperature=0.9, seed=7))
            assert sink.wait().tokens == expected
            assert sink.reason is FinishReason.LENGTH


@pytest.mark.parametrize("cohorts", [1, 2])
def test_the_number_of_cohorts_is_shown(cohorts: int) -> None:
    with running(System(cohorts=cohorts)) as system:
        system.generate(ask([1, 2, 3])).wait()
    labels = {"pool": VerifierSettings().pool}
    assert REGISTRY.get_sample_value("dspark_verify_cohorts", labels) == cohorts


def test_speculation_saves_steps_and_counts_them() -> None:
    with running(System(step_s=0.002)) as system:
        system.add_drafter("d1")
        fast = system.generate(ask([1, 2, 3], 200)).wait()
        slow = system.generate(ask([1, 2, 3], 200, speculate=False)).wait()
        assert fast.tokens == slow.tokens
        assert fast.stats is not None
        assert slow.stats is not None
        assert slow.stats.steps == 199
        assert fast.stats.steps < 80
        assert slow.stats.drafted_steps == 0
        assert sum(fast.stats.accepted_histogram) == fast.stats.steps
        assert fast.stats.accepted_draft_tokens + fast.stats.steps + 1 >= 200


def test_a_trace_shows_what_became_of_each_draft_and_changes_no_token() -> None:
    with running(System(budget=FixedBudget(3))) as system:
        system.add_drafter("d1")
        traced = system.generate(ask([1, 2, 3], 60, trace=True)).wait()
        plain = system.generate(ask([1, 2, 3], 60)).wait()
    assert traced.tokens == plain.tokens
    assert {draft for _, draft in plain.drafts} == {None}, "nobody asked"
    judged = [(tokens, draft) for tokens, draft in traced.drafts if draft is not None]
    assert traced.stats is not None
    assert len(judged) == traced.stats.drafted_steps > 0
    for tokens, draft in judged:
        assert draft.verified == min(3, len(draft.tokens)) >= draft.accepted
        assert len(draft.confidences) == len(draft.tokens)
        assert tokens[: draft.accepted] == draft.tokens[: draft.accepted]
        if draft.accepted < draft.verified and len(tokens) > draft.accepted:
            assert tokens[draft.accepted] != draft.tokens[draft.accepted], "rejected, then replaced"
    assert any(draft.accepted < draft.verified for _, draft in judged), "some were rejected"
    assert any(draft.verified < len(draft.tokens) for _, draft in judged), "some were trimmed"


def test_a_cap_on_draft_tokens_is_kept() -> None:
    with running(System()) as system:
        system.add_drafter("d1")
        sink = system.generate(ask([1, 2, 3], 60, max_draft_tokens=2)).wait()
        assert sink.tokens == continuation([1, 2, 3], 60, GREEDY)
        assert sink.stats is not None
        assert max(k for k, count in enumerate(sink.stats.accepted_histogram) if count) == 2


def test_a_stop_token_ends_the_generation_and_is_its_last_token() -> None:
    expected = continuation([5, 6], 60, GREEDY)
    stop = expected[23]
    with running(System()) as system:
        system.add_drafter("d1")
        sink = system.generate(ask([5, 6], 60, stop_tokens=frozenset({stop}))).wait()
        assert sink.tokens == expected[: expected.index(stop) + 1]
        assert sink.reason is FinishReason.STOP


def test_logprobs_come_with_the_tokens_that_are_committed() -> None:
    expected = continuation([5, 6], 60, GREEDY)
    stop = expected[23]
    with running(System()) as system:
        system.add_drafter("d1")
        sink = system.generate(
            ask([5, 6], 60, stop_tokens=frozenset({stop}), top_logprobs=1)
        ).wait()
        assert [-each.logprob for each in sink.logprobs] == sink.tokens
        assert system.generate(ask([5, 6])).wait().logprobs == []


def test_a_grammar_that_cannot_be_followed_ends_its_own_session_only() -> None:
    with running(System()) as system:
        system.add_drafter("d1")
        system.target.gives_up_after = 9
        free = system.engine.intake.pages.free_pages
        bad = system.generate(ask([1, 2], top_logprobs=0))
        good = system.generate(ask([5, 6]))
        assert bad.wait().error == "the grammar cannot be followed"
        assert bad.anywhere
        assert len(bad.tokens) >= 9
        assert bad.tokens == continuation([1, 2], len(bad.tokens), GREEDY)
        assert good.wait().tokens == continuation([5, 6], 40, GREEDY)
        assert system.engine.num_open == 0
        assert system.engine.intake.pages.free_pages == free


def test_a_resumed_generation_continues_where_it_stopped() -> None:
    sampling = Sampling(temperature=1.0, seed=3)
    expected = continuation([9, 9], 50, sampling)
    with running(System()) as system:
        system.add_drafter("d1")
        sink = system.generate(ask([9, 9], 50, sampling, committed=tuple(expected[:20]))).wait()
        assert sink.tokens == expected[20:]


def test_a_steps_tokens_are_delivered_at_once_and_after_the_next_drafts_were_asked_for() -> None:
    happened: list[str] = []  # by the engine's thread

    class Target(FakeTarget):
        def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
            happened.append("step")
            return super().step(segments)

    class Port(MemoryPort):
        def send(self, drafter: ReplicaName, round_: Round) -> int:
            if round_.sessions:
                happened.append("ask")
            return super().send(drafter, round_)

    class Sink(Collected):
        def commit(self, *committed: Any) -> None:
            happened.append("commit")
            super().commit(*committed)

    def deliver() -> None:
        # As the streams' outbox does: where nothing was committed since, nobody is woken.
        if "commit" in itertools.takewhile(lambda what: what != "deliver", reversed(happened)):
            happened.append("deliver")

    system = System(target=Target, port=Port, cohorts=1, deadline_floor_s=20.0)
    system.engine.deliver = deliver
    system.add_drafter("d1")
    sinks = [Sink() for _ in range(3)]
    for seed, sink in enumerate(sinks):  # before the start, so that all begin in one step
        system.engine.submit(ask([seed + 1], max_draft_tokens=GAMMA), sink)
    with running(system):
        for sink in sinks:
            sink.wait()
    first, *later = " ".join(happened).removeprefix("step ").split(" step ")
    assert first == "commit commit commit deliver ask"
    whole = "commit commit commit ask deliver"
    assert later[:5] == [whole] * 5
    assert all(re.fullmatch(r"(commit )+(ask )?deliver", each) for each in later)


def test_losing_every_drafter_mid_stream_changes_nothing() -> None:
    with running(System()) as system:
        system.add_drafter("d1")
        sink = system.generate(ask([4, 4, 4], 600))
        assert sink.some.wait(10)
        system.remove_drafter("d1")
        assert sink.wait().tokens == continuation([4, 4, 4], 600, GREEDY)


def test_sessions_move_to_another_drafter_and_a_new_one_is_used_again() -> None:
    with running(System()) as system:
        system.add_drafter("d1")
        second = FakeDrafter()
        sink = system.generate(ask([4, 4, 4], 900))
        assert sink.some.wait(10)
        system.remove_drafter("d1")
        system.add_drafter("d2", second)
        assert sink.wait().tokens == continuation([4, 4, 4], 900, GREEDY)
        assert second.batches


def test_a_drafter_that_is_always_wrong_costs_speed_only() -> None:
    with running(System()) as system:
        system.add_drafter("d1", FakeDrafter(wrong_every=1))
        sink = system.generate(ask([1], 50)).wait()
        assert sink.tokens == continuation([1], 50, GREEDY)
        assert sink.stats is not None
        assert sink.stats.accepted_draft_tokens == 0


def test_cancelling_frees_pages_and_draft_state() -> None:
    with running(System()) as system:
        drafter = system.add_drafter("d1")
        sinks = []
        ids = []
        for seed in range(4):
            sink = Collected()
            ids.append(system.engine.submit(ask([seed], 900), sink))
            sinks.append(sink)
        assert all(sink.some.wait(10) for sink in sinks)
        for session in ids:
            system.engine.cancel(session)
        last = system.generate(ask([1, 2], 5)).wait()
        assert last.error is None
        for _ in range(200):
            if drafter.num_sessions == 0 and system.engine.num_open == 0:
                break
            time.sleep(0.01)
        assert drafter.num_sessions == 0
        assert system.engine.num_open == 0
        assert system.engine.intake.pages.free_pages == system.engine.intake.pages.num_pages


def test_random_arrivals_at_one_page_of_slack_never_stall() -> None:
    rng = random.Random(5)
    biggest = 16
    with running(System(num_pages=biggest + 1, max_sessions=8)) as system:
        system.add_drafter("d1")
        asked = []
        for _ in range(60):
            total = rng.randint(6, biggest * 4)
            prompt = [rng.randrange(90) for _ in range(rng.randint(1, total - 1))]
            asked.append((prompt, total - len(prompt)))
        sinks = [system.generate(ask(prompt, count)) for prompt, count in asked]
        for (prompt, count), sink in zip(asked, sinks, strict=True):
            assert sink.wait().tokens == continuation(prompt, count, GREEDY)
        system.engine.intake.pages.check()


def test_what_can_never_fit_is_refused_with_both_numbers() -> None:
    system = System(num_pages=8)
    with running(system), pytest.raises(NeverFits, match=r"make 70, more than the 32"):
        system.generate(ask([1] * 30, 40))


def test_a_full_queue_refuses_instead_of_growing() -> None:
    with running(System(num_pages=16, max_sessions=1, max_waiting=1)) as system:
        sinks = [system.generate(ask([1], 60)), system.generate(ask([2], 60))]
        with pytest.raises(Overloaded):
            sinks.extend(system.generate(ask([3], 60)) for _ in range(3))
        for sink in sinks:
            assert sink.wait().error is None


def test_equal_prompts_share_pages() -> None:
    with running(System()) as system:
        prompt = list(range(40))
        first = system.generate(ask(prompt, 10)).wait()
        second = system.generate(ask(prompt, 10)).wait()
        assert first.tokens == second.tokens
        assert second.stats is not None
        assert second.stats.cached_prompt_tokens == 36


def test_live_steps_are_compared_with_the_profiled_curve() -> None:
    curve = Curve(
        version="v",
        device="fake",
        points=tuple(
            CurvePoint(context_tokens=0, sessions=1, batch_tokens=tokens, step_s=0.001)
            for tokens in (1, 8)
        ),
    )
    with running(System(step_s=0.002, curve=curve)) as system:
        system.add_drafter("d1")
        system.generate(ask([1, 2, 3], 200)).wait()
        system.generate(ask([1, 2, 3], 100, speculate=False)).wait()
        assert system.engine.refinement is not None
        system.engine.refinement.fold()
        cells = system.engine.refinement.cells
    assert {cell.batch_tokens for cell in cells if cell.steps > 50} >= {1}
    assert any(cell.batch_tokens > 1 for cell in cells)
    # The fake sleeps 2 ms where the curve says 1.
    assert all(1.9 < cell.ratio <= MAX_RATIO for cell in cells)


@pytest.mark.parametrize(("max_opening_bytes", "drafted"), [(4096, True), (0, False)])
def test_the_first_step_after_a_short_prompt_has_a_draft(
    max_opening_bytes: int, drafted: bool
) -> None:
    with running(System(max_opening_bytes=max_opening_bytes, step_s=0.02)) as system:
        system.add_drafter("d1", FakeDrafter(GAMMA, wrong_every=1000))
        count = 1 + 2 * (1 + GAMMA)  # the prompt's own token and two steps
        sink = system.generate(ask([1, 2, 3], count)).wait()
        assert sink.tokens == continuation([1, 2, 3], count, GREEDY)
        assert (sink.stats.plain_steps == 0) == drafted


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("wrong_every", "asked_for"), [(1, 0), (1, GAMMA), (1000, 0)])
def test_a_session_whose_drafts_never_survive_is_skipped_unless_it_asked_for_them(
    skip: bool, wrong_every: int, asked_for: int
) -> None:
    drafting = DraftingSettings(skip=skip)
    curve = a_curve({1: 0.010, 8: 0.030}, sessions=(1,))
    with running(System(curve=curve, drafting_settings=drafting)) as system:
        system.add_drafter("d1", FakeDrafter(GAMMA, wrong_every), curve=a_curve({7: 0.004}))
        sink = system.generate(ask([1, 2, 3], 400, max_draft_tokens=asked_for)).wait()
        assert sink.tokens == continuation([1, 2, 3], 400, GREEDY)
        hopeless = wrong_every == 1 and not asked_for
        assert (sink.stats.plain_steps > 100) == (skip and hopeless)
