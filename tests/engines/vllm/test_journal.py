from types import SimpleNamespace
from typing import Any

from dspark.core.draft import DraftBlock, DraftStatus
from dspark.core.ids import SessionId
from dspark.engines.vllm.journal import Journal, Outcome, Sent
from dspark.engines.vllm.notes import StepNote

EMPTY = StepNote(batch_tokens=0, prompt_tokens=0, step_s=0.0, turn_s=None)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _scheduled(counts: dict[str, int], drafts: dict[str, int] | None = None) -> Any:
    return SimpleNamespace(
        num_scheduled_tokens=counts,
        scheduled_spec_decode_tokens={name: [0] * n for name, n in (drafts or {}).items()},
    )


def _outcome(request: str, sampled: int, before: int, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "request": request,
        "session": 1,
        "mode": "greedy",
        "sampled": sampled,
        "committed": sampled,
        "context_tokens": 10 + before,
        "generated_before": before,
    }
    return Outcome(**(values | changes))


def _sent(tokens: tuple[int, ...]) -> Sent:
    block = DraftBlock(
        session=SessionId(1), base_length=1, status=DraftStatus.OK, tokens=tokens,
        confidences=(0.5,) * len(tokens),
    )  # fmt: skip
    return Sent(block=block, row_bytes=8, draft_bytes=3)


def test_a_prompt_makes_no_round_and_its_turn_has_no_predecessor() -> None:
    clock = Clock()
    journal = Journal(clock)
    clock.now_s += 5  # it was idle
    journal.begin(_scheduled({"a": 10}))
    clock.now_s += 2
    note = journal.end([_outcome("a", 1, 0)], note=EMPTY, waited_s=0.5, asked={})
    assert (note.batch_tokens, note.prompt_tokens, note.rounds) == (10, 10, ())
    assert (note.step_s, note.turn_s) == (1.5, None)


def test_a_round_is_told_with_the_draft_that_was_proposed_a_step_before() -> None:
    clock = Clock()
    journal = Journal(clock)
    journal.begin(_scheduled({"a": 10, "b": 4}))
    asked = {"a": _sent((7, 8, 9))}
    journal.end([_outcome("a", 1, 0), _outcome("b", 0, 0)], note=EMPTY, waited_s=0, asked=asked)
    clock.now_s += 1  # vLLM's own affairs between two steps
    journal.begin(_scheduled({"a": 3, "b": 4}, {"a": 2}))  # one draft was trimmed
    clock.now_s += 2
    note = journal.end(
        [_outcome("a", 2, 1), _outcome("b", 0, 0)], note=EMPTY, waited_s=0.25, asked={}
    )
    (round_,) = note.rounds
    assert (round_.drafted, round_.verified, round_.accepted) == ((7, 8, 9), 2, 1)
    assert (round_.committed, round_.context_tokens) == (2, 11)
    assert (round_.row_bytes, round_.draft_bytes) == (8, 3)
    assert (note.batch_tokens, note.prompt_tokens) == (7, 4)
    assert (note.step_s, note.turn_s) == (1.75, 2.75)


def test_a_draft_that_ends_its_request_counts_as_accepted() -> None:
    journal = Journal(Clock())
    journal.begin(_scheduled({"a": 1}))
    journal.end([_outcome("a", 1, 4)], note=EMPTY, waited_s=0, asked={"a": _sent((7, 8))})
    journal.begin(_scheduled({"a": 3}, {"a": 2}))
    ended = _outcome("a", 3, 5, committed=1)
    (round_,) = journal.end([ended], note=EMPTY, waited_s=0, asked={}).rounds
    assert (round_.committed, round_.accepted) == (1, 1)


def test_a_step_of_others_alone_follows_no_turn() -> None:
    clock = Clock()
    journal = Journal(clock)
    journal.begin(_scheduled({"a": 1}))
    journal.end([_outcome("a", 1, 4)], note=EMPTY, waited_s=0, asked={})
    journal.begin(_scheduled({"b": 1}))  # a ended, and b came some time later
    assert journal.end([_outcome("b", 1, 4)], note=EMPTY, waited_s=0, asked={}).turn_s is None
