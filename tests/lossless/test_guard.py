"""The online guard on the real engines: a bias is caught, an honest system is not accused.

Drafts of a toy pair are judged by rejection.  The stated chance that a correct system is ever
accused is 1e-6.
"""

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dspark.config.verifier import GuardSettings
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling, SamplingMode
from dspark.model.sampling_rows import sampling_batch
from dspark.verifier.target_port import Segment
from dspark_kernels.rejection_step import target_laws
from tests.lossless.engines import Engines
from tests.lossless.test_coupled_law import TrustingTarget
from tests.lossless.test_rejection_engines import DrawingDrafter, TruncatedCopy
from tests.lossless.toy_pair import PAGE_TOKENS, ToyDrafter, ToyTarget
from tests.lossless.toy_system import PAIRS, sessions

PAIR = PAIRS["3 tokens"]
PAGES = 512
ALL = GuardSettings(share=1.0, max_candidates=100_000, max_violations=2)
GAMMA = 3


class JudgedTarget(ToyTarget):
    """Says what it draws from, as the guard asks."""

    def law(self, segment: Segment) -> NDArray[np.float64]:
        position = segment.start + len(segment.tokens)
        self.step([segment._replace(choose=0)])  # writes its tokens
        before, last = self.rows(segment.pages, position - 2, position)[:, 0].astype(int)
        rows = sampling_batch([segment.sampling], [position])
        logits = torch.from_numpy(self.pair.target[position, before, last])[None]
        return target_laws(logits, rows)[0]


class EagerTarget(JudgedTarget):
    """Wrong on purpose: takes the first draft that it rejects all the same."""

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        chosen = super().step(segments)
        for index, part in enumerate(segments):
            accepted = len(chosen[index]) - 1
            if part.laws is not None and accepted < part.choose - 1:
                chosen[index] = (*chosen[index][:-1], part.tokens[1 + accepted])
        return chosen


class ShyTarget(JudgedTarget):
    """Wrong on purpose: draws what follows a rejected draft from p, not from what q left of it."""

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        chosen = super().step(segments)
        own = super().step([part._replace(laws=None) for part in segments])
        return [
            mine if part.laws is None or len(mine) == part.choose
            else (*mine[:-1], plain[len(mine) - 1])
            for part, mine, plain in zip(segments, chosen, own, strict=True)
        ]  # fmt: skip


def guarded(target: JudgedTarget, drafter: ToyDrafter, count: int) -> Engines:
    """Run ``count`` requests to their end, and every check of them."""
    asked = sessions(PAIR, 1.0, 0, count, SamplingMode.REJECTION)
    return run_guarded(checking(target), drafter, asked)


def checking(target: ToyTarget, gamma: int = GAMMA) -> Engines:
    """Engines that check every request."""
    return Engines(
        target,
        gamma=gamma,
        page_tokens=PAGE_TOKENS,
        num_pages=PAGES,
        max_sessions=32,
        guard=ALL,
    )


def run_guarded(
    engines: Engines, drafter: ToyDrafter, generations: Sequence[Generation]
) -> Engines:
    with engines:
        engines.connect("d", drafter)
        assert all(sink.error is None for sink in engines.generate(generations))
        guard = engines.engine.guard
        assert guard is not None
        deadline_s = time.monotonic() + 60.0
        while guard.pending and engines.engine.failure is None:
            assert time.monotonic() < deadline_s, "the guard hangs"
            time.sleep(0.01)
    return engines


def violations(engines: Engines) -> int:
    assert engines.engine.guard is not None
    return engines.engine.guard.violations


@pytest.mark.parametrize("count", [240, pytest.param(3000, marks=pytest.mark.long)])
def test_an_honest_verifier_is_not_accused(count: int) -> None:
    engines = guarded(JudgedTarget(PAIR, PAGES), DrawingDrafter(PAIR, GAMMA), count)
    assert engines.engine.guard is not None
    assert engines.engine.guard.checks == count
    assert violations(engines) == 0


@pytest.mark.parametrize(
    ("wrong", "count"),
    [(EagerTarget, 240), pytest.param(ShyTarget, 3000, marks=pytest.mark.long)],
)
def test_wrong_acceptance_is_caught_and_speculation_ends(
    wrong: type[JudgedTarget], count: int
) -> None:
    engines = guarded(wrong(PAIR, PAGES), DrawingDrafter(PAIR, GAMMA), count)
    assert violations(engines) >= ALL.max_violations
    assert engines.engine.guard is not None
    assert engines.engine.guard.tripped


@pytest.mark.long
def test_a_drafter_that_lies_about_its_law_is_caught() -> None:
    assert violations(guarded(JudgedTarget(PAIR, PAGES), TruncatedCopy(PAIR, GAMMA), 3000)) >= 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_coupled_and_greedy_requests_are_compared_token_by_token(temperature: float) -> None:
    for kind, caught in ((ToyTarget, False), (TrustingTarget, True)):
        engines = checking(kind(PAIR, PAGES), gamma=5)
        run_guarded(engines, ToyDrafter(PAIR, 5), sessions(PAIR, temperature, 11, 60))
        assert (violations(engines) >= ALL.max_violations) == caught


def test_a_repeated_seed_is_used_once() -> None:
    engines = checking(JudgedTarget(PAIR, PAGES))
    one = sessions(PAIR, 1.0, 5, 1, SamplingMode.REJECTION)
    run_guarded(engines, DrawingDrafter(PAIR, GAMMA), one * 20)
    assert engines.engine.guard is not None
    assert engines.engine.guard.checks == 1


def test_the_law_of_a_plain_step_is_the_softmax() -> None:
    target = JudgedTarget(PAIR, 8)
    segment = Segment(
        tokens=(0, 0, 0), start=0, pages=(0,), choose=1,
        sampling=Sampling(temperature=0.7, mode=SamplingMode.REJECTION),
    )  # fmt: skip
    wanted = torch.softmax(torch.from_numpy(PAIR.target[3, 0, 0]).double() / 0.7, dim=-1).numpy()
    assert target.law(segment) == pytest.approx(wanted, abs=1e-6)
