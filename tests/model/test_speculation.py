"""Drafting changes how many tokens a step yields, never which."""

import pytest

from dspark.core.draft import DraftRequest
from dspark.core.sampling import Sampling
from dspark.core.verdict import judge
from dspark.model.batch import RaggedBatch, Segment
from dspark.model.drafter_runner import BlockDrafter
from dspark.model.sampling_rows import sampling_batch
from dspark.model.target import TargetRunner
from dspark_kernels.sampling import choose_tokens
from tests.model import tiny

PROMPT, END = tiny.prompt(20), 70
TABLE = tuple(range(8))


@pytest.fixture(scope="module")
def target() -> TargetRunner:
    return tiny.runner()


def chosen(
    target: TargetRunner, tokens: list[int], start: int, sampling: Sampling, last: int
) -> list[int]:
    """The target's tokens after the last ``last`` of ``tokens``."""
    first = len(tokens) - last
    segment = Segment(token_ids=tokens, start=start, block_table=TABLE, logits_from=first)
    logits = target.forward(RaggedBatch(segments=(segment,))).logits
    positions = [start + first + index + 1 for index in range(last)]
    return choose_tokens(logits, sampling_batch([sampling] * last, positions)).tolist()


def plainly(target: TargetRunner, sampling: Sampling) -> list[int]:
    tokens = [*PROMPT, *chosen(target, PROMPT, 0, sampling, 1)]
    while len(tokens) < END:
        tokens += chosen(target, tokens[-1:], len(tokens) - 1, sampling, 1)
    return tokens


def speculating(target: TargetRunner, sampling: Sampling, expected: list[int]) -> int:
    """Decode with drafts, every other block being mostly right; return drafts accepted."""
    drafter = BlockDrafter(tiny.drafter())
    drafter.open("s", sampling)
    tokens = [*PROMPT, *chosen(target, PROMPT, 0, sampling, 1)]
    accepted = rounds = 0
    while len(tokens) < END:
        base = len(tokens) - 1
        cached = drafter.cached("s") or 0
        drafter.append("s", cached, target.rows(TABLE, cached, base))
        request = DraftRequest(key="s", anchor=tokens[-1], base_length=base, max_tokens=tiny.GAMMA)
        drafts = list(drafter.draft([request])[0].tokens)
        if rounds % 2:
            right = rounds % (tiny.GAMMA + 1)
            drafts[:right] = expected[base + 1 : base + 1 + right]
        judged = judge(
            drafts,
            chosen(target, [tokens[-1], *drafts], base, sampling, len(drafts) + 1),
            stop_tokens=(),
            remaining=END - len(tokens),
        )
        tokens += judged.committed
        accepted += judged.accepted
        rounds += 1
    assert tokens == expected
    return accepted


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.9, seed=7),
        Sampling(temperature=1.0, seed=8, top_k=3),
        Sampling(temperature=1.2, seed=9, top_p=0.6, min_p=0.01),
    ],
)
def test_tokens_are_the_same_with_and_without_drafts(
    target: TargetRunner, sampling: Sampling
) -> None:
    assert speculating(target, sampling, plainly(target, sampling)) > 10
