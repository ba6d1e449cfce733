"""The proposer against a fake runner: rows, requests and their fates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dspark.core.budget import DISABLED, Budget, ContextBucket
from dspark.core.ids import Epoch, PoolName, Term
from dspark.core.sampling import Sampling, SamplingMode
from dspark.engines.vllm.line import NoteReceiver
from dspark.engines.vllm.notes import StepNote
from dspark.engines.vllm.requests import drawn_as
from tests.engines.vllm.fake_runner import (
    GAMMA,
    GREEDY,
    MAX_MODEL_LEN,
    VOCAB,
    Engine,
    continuation,
    params,
)

PROMPT = (5, 6, 7, 8, 9, 10)


def _engine(**changes: Any) -> Engine:
    engine = Engine(**changes)
    engine.drafter.connect()
    return engine


def _right(engine: Engine, request: str, prompt: tuple[int, ...] = PROMPT) -> None:
    out = engine.output(request)
    assert out == continuation(prompt, len(out), GREEDY)


def _steps(engine: Engine, count: int, **changes: Any) -> None:
    for _ in range(count):
        engine.step(**changes)
    assert engine.drafts.failure is None


def test_every_draft_is_accepted_because_every_row_is_right() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    engine.add("b", (1, 2))
    _steps(engine, 5)
    _right(engine, "a")
    _right(engine, "b", (1, 2))
    assert engine.accepted
    assert set(engine.accepted) == {GAMMA}


def test_the_layers_are_those_whose_output_the_drafter_was_trained_on() -> None:
    assert _engine().runner.model.aux_layers == (2, 4)


def test_a_prompt_in_chunks_is_drafted_from_its_first_token_on() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 6, chunk=4)
    _right(engine, "a")
    # A step carries 4 tokens here, so vLLM cuts the drafts to a prefix of 3.
    assert engine.accepted
    assert min(engine.accepted) >= 3


def test_a_prefix_hit_finds_the_rows_of_the_request_that_made_them() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 2)
    shared = engine.blocks("a")[:1]
    engine.add("b", (*PROMPT[:4], 50), cached=4, blocks=shared)
    _steps(engine, 3)
    _right(engine, "b", (*PROMPT[:4], 50))
    assert set(engine.accepted) == {GAMMA}
    assert len(engine.drafts.steps.open_requests) == 2  # type: ignore[union-attr]


def test_a_hit_without_rows_goes_plainly_until_its_kv_is_computed_here() -> None:
    engine = _engine()
    engine.add("a", PROMPT, cached=4, blocks=[63])  # KV from before our time
    _steps(engine, 3)
    assert not engine.accepted
    assert not engine.drafter.cached
    engine.preempt("a")
    engine.resume("a")
    _steps(engine, 4)
    _right(engine, "a")
    assert set(engine.accepted) == {GAMMA}


def test_a_preempted_request_is_forgotten_and_drafted_again_when_it_is_back() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    engine.add("b", (1, 2))
    _steps(engine, 3)
    engine.preempt("a")
    _steps(engine, 1)
    assert len(engine.drafter.cached) == 1
    engine.resume("a")
    _steps(engine, 3)
    _right(engine, "a")
    assert len(engine.drafter.cached) == 2
    assert set(engine.accepted) == {GAMMA}


def test_a_request_reset_within_one_step_is_seeded_from_its_new_rows() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 3)
    engine.preempt("a")
    engine.resume("a")
    _steps(engine, 3)
    _right(engine, "a")
    assert set(engine.accepted) == {GAMMA}


def test_an_ended_request_leaves_nothing_even_if_no_step_follows() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 3)
    engine.finish("a")
    _steps(engine, 1)  # nothing is scheduled: vLLM only tells what ended
    assert not engine.drafter.cached
    assert not engine.drafts.steps.open_requests  # type: ignore[union-attr]


def test_an_id_used_again_is_another_request() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 3)
    engine.finish("a")
    _steps(engine, 1)
    engine.add("a", (40, 41, 42))
    _steps(engine, 3)
    _right(engine, "a", (40, 41, 42))
    assert len(engine.drafter.cached) == 1


def test_without_a_drafter_it_is_plain_vllm() -> None:
    engine = Engine()
    engine.add("a", PROMPT)
    _steps(engine, 6)
    _right(engine, "a")
    assert len(engine.output("a")) == 6
    assert not engine.pending


def test_a_drafter_that_comes_late_is_seeded_with_all_rows() -> None:
    engine = Engine()
    engine.add("a", PROMPT)
    _steps(engine, 6)
    engine.drafter.connect()
    _steps(engine, 3)
    _right(engine, "a")
    assert set(engine.accepted) == {GAMMA}


def test_a_lost_drafter_costs_drafts_only() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 3)
    engine.drafter.lose()
    before = len(engine.accepted)
    _steps(engine, 3)
    assert len(engine.accepted) <= before + 1
    engine.drafter.connect()
    _steps(engine, 3)
    _right(engine, "a")
    assert set(engine.accepted) == {GAMMA}


def test_a_late_answer_is_dropped_and_drafting_goes_on() -> None:
    engine = _engine(deadline_s=0.01)
    engine.add("a", PROMPT)
    _steps(engine, 2)
    engine.drafter.silent = True
    _steps(engine, 3)
    assert not engine.pending
    asked = len([r for r in engine.drafter.rounds if r.sessions])
    engine.drafter.answer_late()
    _steps(engine, 2)
    _right(engine, "a")
    assert len([r for r in engine.drafter.rounds if r.sessions]) > asked
    assert set(engine.accepted) == {GAMMA}
    assert engine.drafts.steps.desk.outcomes["late"] == 1  # type: ignore[union-attr]


def test_a_request_asks_for_no_more_than_it_may_still_commit() -> None:
    engine = _engine()
    engine.add("a", PROMPT, max_tokens=4)
    engine.step()
    engine.step()
    assert [part.max_tokens for r in engine.drafter.rounds for part in r.sessions] == [1]
    long = tuple(range(MAX_MODEL_LEN - 4))
    engine.finish("a")
    engine.add("b", long, max_tokens=None)
    engine.step(chunk=MAX_MODEL_LEN)
    engine.step()
    assert [part.max_tokens for r in engine.drafter.rounds for part in r.sessions][1:] == [1]


def test_a_request_that_met_its_stop_token_is_asked_for_no_more() -> None:
    engine = _engine()
    second = continuation(PROMPT, 2, GREEDY)[-1]
    engine.add("a", PROMPT, all_stop_token_ids={second})
    _steps(engine, 2)
    assert not [part for r in engine.drafter.rounds for part in r.sessions]


def _budget(engine: Engine, entry: int, epoch: int) -> None:
    engine.budget(
        Budget(
            pool=PoolName("verifier"),
            term=Term(1),
            epoch=Epoch(epoch),
            ttl_s=60.0,
            curve_version="",
            buckets=(ContextBucket(max_context_tokens=1000, draft_tokens=(entry,)),),
        )
    )


def test_the_budget_of_a_controller_bounds_what_is_verified() -> None:
    engine = _engine()
    _budget(engine, 3, 1)
    engine.add("a", PROMPT)
    engine.add("b", (1, 2))
    _steps(engine, 4)
    assert sum(map(len, engine.pending.values())) == 3
    _budget(engine, DISABLED, 2)
    _steps(engine, 1)
    assert not engine.pending
    _right(engine, "a")
    _right(engine, "b", (1, 2))


def test_sampled_drafts_come_with_their_laws_in_vllms_order() -> None:
    engine = _engine()
    engine.add("greedy", PROMPT)
    engine.add("hot", (1, 2), temperature=0.8, top_p=0.9, top_k=-1)
    engine.add("json", (3, 4), temperature=0.8, structured_outputs=object())
    _steps(engine, 2)
    laws, order = engine.runner._draft_probs, engine.runner._draft_prob_req_ids
    assert order == ["greedy", "hot", "json"]
    assert laws.shape == (3, GAMMA, VOCAB)
    hot = engine.pending["hot"]
    assert [laws[1, k, token].item() for k, token in enumerate(hot)] == [0.75] * GAMMA
    assert laws[1].sum(dim=1).tolist() == [1.0] * GAMMA
    json = engine.pending["json"]
    assert [laws[2, k, token].item() for k, token in enumerate(json)] == [1.0] * GAMMA


def test_equal_texts_are_drawn_apart() -> None:
    engine = _engine()
    for request in ("a", "b", "c"):
        engine.add(request, PROMPT, temperature=0.8)
    _steps(engine, 2)
    assert len({sampling.seed for sampling in engine.drafter.sampling.values()}) == 3


def test_greedy_requests_alone_need_no_laws() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 3)
    assert engine.pending
    assert engine.runner._draft_probs is None


def test_drafts_are_drawn_as_the_request_samples() -> None:
    hot = params(temperature=3.0, top_k=-1, top_p=0.9)
    assert drawn_as(hot, True) == Sampling(
        temperature=2.0, top_k=0, top_p=0.9, mode=SamplingMode.REJECTION
    )
    # Where drafts count as one-hot they are the likeliest tokens.
    assert drawn_as(hot, False).greedy
    assert drawn_as(params(temperature=1.0, structured_outputs=object()), True).greedy
    assert drawn_as(params(), True).greedy


def test_a_request_says_whether_it_is_drafted_for_and_how_far() -> None:
    engine = _engine()
    engine.add("plain", PROMPT, extra_args={"dspark": {"speculate": False}})
    engine.add("short", (1, 2), extra_args={"dspark": {"max_draft_tokens": 2}})
    engine.add("odd", (3, 4), extra_args={"dspark": {"what": 1}})
    _steps(engine, 3)
    assert "plain" not in engine.pending
    assert len(engine.pending["short"]) == 2
    assert len(engine.pending["odd"]) == GAMMA
    assert len(engine.drafter.cached) == 2


def test_a_budget_weighs_drafts_by_priority() -> None:
    engine = _engine()
    engine.budget(
        Budget(
            pool=PoolName("verifier"),
            term=Term(1),
            epoch=Epoch(1),
            ttl_s=60.0,
            curve_version="",
            buckets=(ContextBucket(max_context_tokens=1000, draft_tokens=(GAMMA,)),),
            weights={5: 0.01},
        )
    )
    engine.add("low", PROMPT, extra_args={"dspark": {"priority": 5}})
    engine.add("high", (1, 2))
    _steps(engine, 3)
    assert len(engine.pending["high"]) == GAMMA
    assert "low" not in engine.pending


def test_the_replica_is_told_of_every_step(tmp_path: Path) -> None:
    notes: list[StepNote] = []
    receiver = NoteReceiver(tmp_path / "line", notes.append)
    engine = Engine(line=tmp_path / "line")
    engine.drafts.take_curve(None)
    engine.drafter.connect()
    engine.add("a", PROMPT, max_tokens=9, extra_args={"dspark": {"session": 4}})
    _steps(engine, 3)
    receiver.drain()
    first, plain, drafted = notes
    assert (first.prompt_tokens, first.rounds) == (len(PROMPT), ())
    assert [round_.verified for round_ in plain.rounds] == [0]
    (round_,) = drafted.rounds
    assert (round_.session, round_.mode) == (4, "greedy")
    assert (round_.verified, round_.accepted, round_.committed) == (GAMMA, GAMMA, GAMMA + 1)
    assert round_.context_tokens == len(PROMPT) + 2
    assert len(round_.confidences) == GAMMA
    assert round_.row_bytes > 0
    assert (drafted.drafters, drafted.outcomes["hit"]) == (1, 1)
    # max_tokens ends it in the middle of what the target says.
    _steps(engine, 1)
    receiver.drain()
    assert [round_.committed for round_ in notes[-1].rounds] == [1]
    engine.add("b", PROMPT)
    _steps(engine, 2)
    engine.drafter.cached.clear()  # the drafter raises from inside our port
    for _ in range(2):
        engine.step()
    receiver.drain()
    assert "KeyError" in notes[-1].failure
    assert notes[-1].drafters == 0
    engine.drafts.close()
    receiver.close()


def test_a_request_with_stop_tokens_of_its_own_ends_at_them() -> None:
    engine = _engine()
    second = continuation(PROMPT, 2, GREEDY)[-1]
    engine.add("a", PROMPT, stop_token_ids=[second], ignore_eos=True)
    _steps(engine, 2)
    assert not [part for r in engine.drafter.rounds for part in r.sessions]


def test_a_failure_ends_drafting_and_not_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    engine.step()
    engine.step()
    engine.drafter.cached.clear()  # the drafter raises from inside our port
    for _ in range(3):
        engine.step()
    assert isinstance(engine.drafts.failure, KeyError)
    assert engine.drafter.closed.wait(10.0)
    assert not engine.pending
    _right(engine, "a")
    assert "decodes plainly" in caplog.text


@dataclass
class OneRank:
    """A rank of two; ``broadcast_object`` hands on what rank 0 said."""

    rank_in_group: int
    said: list[object]
    world_size: int = 2

    def broadcast_object(self, obj: object, src: int = 0) -> object:
        assert src == 0
        if self.rank_in_group == 0:
            self.said.append(obj)
        return self.said[-1]


def test_other_ranks_take_over_what_the_first_decided() -> None:
    said: list[object] = []
    first = Engine(group=OneRank(0, said))
    first.drafter.connect()
    second = Engine(group=OneRank(1, said))
    assert second.drafts.steps is None
    for engine in (first, second):
        engine.add("a", PROMPT, temperature=0.7)
    for _ in range(3):
        first.step()
        second.step()
        assert second.pending == first.pending
    assert first.pending
    assert second.runner._draft_probs.equal(first.runner._draft_probs)
    assert second.tokens == first.tokens


def test_kv_that_vllm_copies_takes_its_rows_along() -> None:
    engine = _engine()
    engine.add("a", PROMPT)
    _steps(engine, 1)
    drafts, block = engine.drafts, engine.blocks("a")[0]
    before = drafts.read("a", 0, 4)
    copied = [type("Copy", (), {"src_block_id": block, "dst_block_id": 60})()]
    scheduled = engine.runner.execute_model_state.scheduler_output
    scheduled.kv_cache_block_copies = copied
    drafts.begin(scheduled)
    engine.runner.requests["a"].block_ids = ([60],)
    assert np.array_equal(drafts.read("a", 0, 4), before)
