"""Rejection sampling through the real engines has the target's joint law, whatever is scheduled.

Drafter and verifier run on their own threads, with desk, fences and admission between them; drafts
are drawn and judged by the serving path's own code.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dspark.core.draft import DraftRequest, Proposal
from dspark.core.draft_laws import DraftLaws
from dspark.core.sampling import Sampling, SamplingMode
from dspark.model.sampling_rows import sampling_batch
from dspark_kernels.rejection_draft import draw_block
from tests.lossless.conftest import Table
from tests.lossless.engines import ask, run
from tests.lossless.toy_pair import FORCED, ToyDrafter, ToyPair, ToyTarget, coupled
from tests.lossless.toy_system import (
    BUDGETS,
    FEW,
    MANY,
    PAGES,
    PAIRS,
    TEMPERATURES,
    evidence_of,
    require_drafts,
    seeds_of,
    sessions,
    system,
)


class DrawingDrafter(ToyDrafter):
    """Draws from its law with randomness of its own, and ships the law."""

    def __init__(self, pair: ToyPair, gamma: int, *, max_q_tokens: int = 64) -> None:
        super().__init__(pair, gamma)
        self._max_q_tokens = max_q_tokens
        self._nonces = itertools.count(1_000_003, 7919)

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        mine = [self._sessions[request.key] for request in requests]
        first = torch.tensor([request.base_length + 1 for request in requests])
        table = torch.from_numpy(self.pair.drafter)
        seen = [torch.tensor([rows[-1] for _, rows in mine])]

        def bias(index: int, previous: torch.Tensor) -> torch.Tensor:
            seen.append(previous)
            # A block may end behind the last token; what it has there is cut off below.
            return table[(first + index).clamp(max=len(table) - 1), seen[-2], previous]

        drawn = draw_block(
            torch.zeros(len(requests), self.gamma, self.pair.vocab_size),
            torch.tensor([request.anchor for request in requests]),
            bias,
            sampling_batch([sampling for sampling, _ in mine], first.tolist()),
            max_tokens=self._max_q_tokens,
            nonce=next(self._nonces),
        )
        return [
            self._proposal(request, [rows[-1], request.anchor], drawn.tokens[n].tolist(), laws)
            for n, (request, (_, rows)) in enumerate(zip(requests, mine, strict=True))
            for laws in [self.shipped(drawn.tokens[n].tolist(), drawn.ids[n], drawn.weights[n])]
        ]

    def shipped(
        self, tokens: list[int], ids: NDArray[np.int64], weights: NDArray[np.float16]
    ) -> DraftLaws:
        """The laws that go with the tokens: ids and weights [gamma, V] as drawn from."""
        kept = weights > 0
        return DraftLaws(counts=tuple(kept.sum(1).tolist()), ids=ids[kept], weights=weights[kept])

    def _proposal(
        self, request: DraftRequest, before: list[int], drawn: list[int], laws: DraftLaws
    ) -> Proposal:
        stop = request.max_tokens
        tokens = [*before, *drawn]
        # c_k sees x_{k-1}, never x_k.
        said = [
            float(self.pair.confidence[request.base_length + 1 + k, tokens[k], tokens[k + 1]])
            for k in range(stop)
        ]
        return Proposal(tokens=tuple(drawn[:stop]), confidences=tuple(said), laws=laws.first(stop))


class TruncatedCopy(DrawingDrafter):
    """Wrong on purpose: it draws from the whole law, and ships its two likeliest tokens."""

    def shipped(
        self, tokens: list[int], ids: NDArray[np.int64], weights: NDArray[np.float16]
    ) -> DraftLaws:
        shown = [
            sorted({t, int(i[w.argmax()])}) for t, i, w in zip(tokens, ids, weights, strict=True)
        ]
        shares = [w[best].astype(np.float64) for w, best in zip(weights, shown, strict=True)]
        return DraftLaws(
            counts=tuple(map(len, shown)),
            ids=np.array(list(itertools.chain(*shown))),
            weights=np.concatenate([share / share.sum() for share in shares]).astype(np.float16),
        )


def check_law(
    name: str,
    drafter: ToyDrafter,
    temperature: float,
    budget: str,
    table: Table,
    *,
    count: int,
    caught: bool = False,
) -> None:
    pair, gamma = PAIRS[name], drafter.gamma
    seed = seeds_of("rejection", type(drafter).__name__, name, gamma, temperature, budget)
    asked = sessions(pair, temperature, seed, count, SamplingMode.REJECTION)
    sinks = run(system(ToyTarget(pair, PAGES), gamma, BUDGETS[budget]()), {"d": drafter}, asked)
    require_drafts(sinks)
    evidence = evidence_of(pair, temperature, sinks)
    if caught:
        table.fails(evidence)
    else:
        table.holds(evidence)


@pytest.mark.parametrize(
    ("name", "gamma", "temperature", "budget"),
    [("3 tokens", 4, 1.0, "all"), ("2 tokens", 7, 1.3, "changing")],
)
def test_the_joint_law_is_the_targets(
    name: str, gamma: int, temperature: float, budget: str, table: Table
) -> None:
    drafter = DrawingDrafter(PAIRS[name], gamma)
    check_law(name, drafter, temperature, budget, table, count=FEW)


@pytest.mark.long
@pytest.mark.parametrize(
    ("gamma", "temperature", "budget"),
    [
        # Every block size at every temperature, each budget with every one of both.
        (gamma, temperature, tuple(BUDGETS)[(gamma + index) % 4])
        for gamma in range(1, 8)
        for index, temperature in enumerate(TEMPERATURES)
    ],
)
def test_it_is_for_every_block_size_temperature_and_budget(
    gamma: int, temperature: float, budget: str, table: Table
) -> None:
    drafter = DrawingDrafter(PAIRS["3 tokens"], gamma)
    check_law("3 tokens", drafter, temperature, budget, table, count=MANY)


def test_a_law_that_is_cut_before_the_draw_does_not_bend_it(table: Table) -> None:
    drafter = DrawingDrafter(PAIRS["3 tokens"], 3, max_q_tokens=2)
    check_law("3 tokens", drafter, 1.0, "K = 90", table, count=FEW)


def test_control_truncating_the_shipped_copy_only_is_caught(table: Table) -> None:
    drafter = TruncatedCopy(PAIRS["3 tokens"], 3)
    check_law("3 tokens", drafter, 1.0, "all", table, count=FEW, caught=True)


@pytest.mark.parametrize(
    ("mode", "temperature"), [(SamplingMode.COUPLED, 1.0), (SamplingMode.REJECTION, 0.0)]
)
def test_greedy_and_coupled_outputs_know_nothing_of_the_mode(
    mode: SamplingMode, temperature: float
) -> None:
    """Drafts come without laws then, and every token is the one of plain decoding."""
    pair = PAIRS["3 tokens"]
    asked = [
        ask(
            [0],
            pair.max_new_tokens,
            Sampling(temperature=temperature, seed=seed, mode=mode),
        )
        for seed in range(20)
    ]
    for _ in range(5):  # a busy machine may end sessions so short before a drafter is seeded
        sinks = run(system(ToyTarget(pair, PAGES), 3), {"d": ToyDrafter(pair, 3)}, asked)
        drafted = any(sink.stats.verified_draft_tokens for sink in sinks if sink.stats)
        if drafted:
            break
    assert drafted
    for sink, generation in zip(sinks, asked, strict=True):
        tokens = [0]
        for position in range(1, 1 + pair.max_new_tokens):
            context = (position, tokens[-2] if position > 1 else 0, tokens[-1])
            tokens += coupled(pair.target, [context], [generation.sampling])
        assert sink.tokens == tokens[1:]
        assert len(sink.tokens) == FORCED + pair.length
