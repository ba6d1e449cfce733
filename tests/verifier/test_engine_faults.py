"""The engine when others fail it: hung drafters, broken targets, requests that are wrong."""

import threading
from collections.abc import Sequence

import pytest

from dspark.core.budget import OFF
from dspark.core.draft import DraftRequest, Proposal
from dspark.core.sampling import Sampling
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.target_port import Segment
from tests.fakes import VOCAB, FakeDrafter, continuation
from tests.verifier.harness import Collected, System, running
from tests.verifier.test_engine import GREEDY, ask


class Hanging(FakeDrafter):
    """Drafts so many blocks, then hangs until it is let go."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.gate = threading.Event()

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        if len(self.batches) >= self.blocks:
            self.gate.wait(30.0)
        return super().draft(requests)


@pytest.mark.parametrize("blocks", [0, 3])
def test_a_drafter_that_hangs_costs_one_deadline_and_not_one_a_step(blocks: int) -> None:
    # At a deadline a step the three hundred steps would take longer than anybody waits.
    drafter = Hanging(blocks)
    with running(System(deadline_floor_s=0.25)) as system:
        system.add_drafter("d1", drafter)
        sinks = [system.generate(ask([seed], 300)) for seed in range(3)]
        for seed, sink in enumerate(sinks):
            assert sink.wait().tokens == continuation([seed], 300, GREEDY)
        drafter.gate.set()


def test_a_drafter_that_comes_back_is_used_again() -> None:
    drafter = Hanging(1)
    with running(System(deadline_floor_s=0.05, step_s=0.001)) as system:
        system.add_drafter("d1", drafter)
        sink = system.generate(ask([1], 900))
        assert sink.some.wait(10.0)
        drafter.gate.set()
        assert sink.wait().tokens == continuation([1], 900, GREEDY)
        assert len(drafter.batches) > 10


def test_where_the_budget_says_off_a_few_rounds_still_probe() -> None:
    with running(System(budget=FixedBudget(OFF))) as system:
        system.add_drafter("d1")
        sink = system.generate(ask([1], 400)).wait()
        assert sink.tokens == continuation([1], 400, GREEDY)
        assert sink.stats is not None
        assert 1 <= sink.stats.drafted_steps <= 8


def test_a_budget_of_nothing_still_drafts_but_verifies_none() -> None:
    with running(System(budget=FixedBudget(0))) as system:
        system.add_drafter("d1")
        sink = system.generate(ask([1], 100)).wait()
        assert sink.stats is not None
        assert sink.stats.drafted_steps > 50
        assert sink.stats.verified_draft_tokens == 0


def test_committed_survivals_reach_the_load_window() -> None:
    with running(System()) as system:
        system.add_drafter("d1")
        sink = system.generate(ask([1], 200)).wait()
        assert sink.stats is not None
        sums, survivals, _ = system.engine.window.take(0.0)
        assert survivals
        assert {len(vector) for vector in survivals} == {7}
        assert sums.committed_tokens == 199  # the first token is the prompt's
        assert sums.accepted_draft_tokens == sink.stats.accepted_draft_tokens
        assert sums.drafted_steps == sink.stats.drafted_steps


def test_prompts_and_sessions_share_the_batch_within_its_bound() -> None:
    with running(System(max_batch_tokens=16, prefill_chunk_tokens=8, max_sessions=6)) as system:
        system.add_drafter("d1")
        prompts = [[seed] * 40 for seed in range(6)]
        sinks = [system.generate(ask(prompt, 40)) for prompt in prompts]
        for prompt, sink in zip(prompts, sinks, strict=True):
            assert sink.wait().tokens == continuation(prompt, 40, GREEDY)
        assert max(tokens for _, tokens in system.target.steps) <= 16


@pytest.mark.parametrize(("prompt", "committed"), [([1, VOCAB], ()), ([1], (VOCAB + 3,))])
def test_a_token_that_the_target_does_not_know_is_refused(
    prompt: list[int], committed: tuple[int, ...]
) -> None:
    with running(System(drafting=False)) as system:
        with pytest.raises(ValueError, match=rf"token {VOCAB}|{VOCAB + 3} is outside 0..96"):
            system.generate(ask(prompt, committed=committed))
        assert system.engine.num_open == 0


def test_stopping_fails_every_open_and_every_later_session() -> None:
    system = System(drafting=False, step_s=0.002, max_sessions=1)
    with running(system):
        open_ones = [system.generate(ask([seed], 900)) for seed in range(3)]
        assert open_ones[0].some.wait(10.0)
        system.engine.stop()
        late = system.generate(ask([1], 5))
        for sink in (*open_ones, late):
            assert sink.wait().error == "the verifier stopped"


def test_a_target_that_fails_ends_every_session_with_an_error() -> None:
    system = System(drafting=False)

    class Broken:
        vocab_size = VOCAB
        max_context_tokens = 4096

        def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
            raise RuntimeError("out of memory")

    system.engine._rounds._target = Broken()  # type: ignore[assignment]
    system.engine.start()
    first = system.generate(ask([1], 5)).wait()
    assert first.error == "the verifier stopped"
    assert system.generate(ask([1], 5)).wait().error == "the verifier stopped"
    system.engine.stop()
    assert str(system.engine.failure) == "out of memory"


def test_sampled_streams_do_not_depend_on_their_neighbours() -> None:
    sampling = Sampling(temperature=1.0, seed=11, choice=2)
    with running(System()) as system:
        system.add_drafter("d1")
        alone = system.generate(ask([8, 8], 60, sampling)).wait().tokens
        crowd = [system.generate(ask([seed], 60)) for seed in range(5)]
        again = system.generate(ask([8, 8], 60, sampling)).wait().tokens
        assert alone == again == continuation([8, 8], 60, sampling)
        assert all(isinstance(sink.wait(), Collected) for sink in crowd)
