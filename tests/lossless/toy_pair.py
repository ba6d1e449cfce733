"""A toy autoregressive pair: laws small enough to enumerate, behind the engines' real protocols.

The target's law of a token depends on its position and on the two tokens before it.  Position 0
is the prompt; the tokens at positions 1 .. FORCED are forced (the prompt's own token is never
drafted, and a session's first round may be plain), so that the ``length`` tokens after them are all
open to drafting.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dspark.core.draft import DraftRequest, Proposal, Rows
from dspark.core.generation import Generation
from dspark.core.logits import LogitsProcessor
from dspark.core.sampling import Sampling
from dspark.model.ragged_target import judge_rows
from dspark.model.sampling_rows import sampling_batch
from dspark.model.session_logits import SessionLogits
from dspark.verifier.target_port import Kv, Segment
from dspark_kernels.sampling import choose_tokens

FORCED = 2
PAGE_TOKENS = 4
CONFIDENCES = (0.0, 0.25, 0.5, 0.9, 1.0)
"""Few values, saturated ones among them, so that ties are the rule."""

MakeProcessor = Callable[[Generation], LogitsProcessor]

Context = tuple[int, int, int]
"""(position of the token to come, the token before the last, the last token)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ToyPair:
    """Logits of target and drafter: [position, token before the last, last token, token].

    Attributes:
        length: Free tokens.
        target: The target's.
        drafter: The drafter's.
        confidence: [position, token before the last, last token]: what the drafter says.
    """

    length: int
    target: NDArray[np.float32]
    drafter: NDArray[np.float32]
    confidence: NDArray[np.float32]

    @property
    def vocab_size(self) -> int:
        return self.target.shape[-1]

    @property
    def max_new_tokens(self) -> int:
        return FORCED + self.length

    def law(self, temperature: float) -> NDArray[np.float64]:
        """The law of the free tokens: [V] * length, flat."""
        p = _softmax(self.target, temperature)
        states = {(0, 0): np.ones(1)}  # (before the last, last) -> mass of each history
        order: dict[tuple[int, int], list[int]] = {(0, 0): [0]}
        for position in range(FORCED + 1, FORCED + 1 + self.length):
            masses: dict[tuple[int, int], list[float]] = {}
            codes: dict[tuple[int, int], list[int]] = {}
            for (before, last), mass in states.items():
                for token in range(self.vocab_size):
                    share = mass * p[position, before, last, token]
                    masses.setdefault((last, token), []).extend(share.tolist())
                    codes.setdefault((last, token), []).extend(
                        code * self.vocab_size + token for code in order[before, last]
                    )
            states = {key: np.array(values) for key, values in masses.items()}
            order = codes
        flat = np.zeros(self.vocab_size**self.length)
        for key, mass in states.items():
            flat[order[key]] = mass
        return flat

    def agreement(self, context: Context, temperature: float) -> tuple[float, float]:
        """Chance that coupled target and drafter choose the same token: (exact, lower bound).

        Exact: sum_v 1 / sum_u max(p_u / p_v, q_u / q_v), from the race of exponentials; the bound
        is (1 - TV) / (1 + TV).
        """
        p = _softmax(self.target[context], temperature)
        q = _softmax(self.drafter[context], temperature)
        possible = (p > 0) & (q > 0)  # no other token is chosen by both
        ratios = np.maximum(p[:, None] / p[None, possible], q[:, None] / q[None, possible])
        distance = 0.5 * float(np.abs(p - q).sum())
        return float((1.0 / ratios.sum(axis=0)).sum()), (1 - distance) / (1 + distance)


def toy_pair(vocab_size: int, length: int, *, seed: int, noise: float = 1.0) -> ToyPair:
    """A random pair; the drafter's logits are the target's with ``noise`` added."""
    rng = np.random.default_rng(seed)
    shape = (FORCED + length + 1, vocab_size, vocab_size, vocab_size)
    target = 0.8 * rng.standard_normal(shape)
    drafter = target + noise * rng.standard_normal(shape)
    for logits in (target, drafter):
        logits[: FORCED + 1] = -np.inf
        logits[: FORCED + 1, ..., 0] = 0.0
    return ToyPair(
        length=length,
        target=target.astype(np.float32),
        drafter=drafter.astype(np.float32),
        confidence=rng.choice(CONFIDENCES, shape[:-1]).astype(np.float32),
    )


class ToyTarget:
    """A target whose KV is its tokens, in pages; it chooses by the serving path's samplers."""

    def __init__(
        self, pair: ToyPair, num_pages: int, make_processor: MakeProcessor | None = None
    ) -> None:
        self.pair = pair
        self._make_processor = make_processor
        self._kv = np.full(num_pages * PAGE_TOKENS, -1, dtype=np.int64)

    @property
    def vocab_size(self) -> int:
        return self.pair.vocab_size

    @property
    def max_context_tokens(self) -> int:
        return 4096

    def processor(self, generation: Generation) -> LogitsProcessor:
        if self._make_processor is not None:
            return self._make_processor(generation)
        return SessionLogits(generation, self.vocab_size, None)

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        contexts: list[Context] = []
        samplings: list[Sampling] = []
        drafts: list[int | None] = []  # the draft for the same position, where there is one
        for part in segments:
            stop = part.start + len(part.tokens)
            for position, token in enumerate(part.tokens, part.start):
                self._kv[self._slot(part.pages, position)] = token
            for row in range(stop - part.choose, stop):
                before = self._kv[self._slot(part.pages, row - 1)] if row else 0
                last = self._kv[self._slot(part.pages, row)]
                assert min(before, last) >= 0, "a position was read before it was written"
                contexts.append((row + 1, int(before), int(last)))
                samplings.append(part.sampling)
                drafts.append(part.tokens[row + 1 - part.start] if row + 1 < stop else None)
        if any(part.laws is not None or part.processor is not None for part in segments):
            logits = torch.from_numpy(self.pair.target[tuple(np.array(contexts).T)])
            return judge_rows(logits, segments)
        tokens = iter(self.chosen(contexts, samplings, drafts))
        return [tuple(next(tokens) for _ in range(part.choose)) for part in segments]

    def chosen(
        self,
        contexts: Sequence[Context],
        samplings: Sequence[Sampling],
        drafts: Sequence[int | None],
    ) -> list[int]:
        """The target's token of each row; an honest one does not look at the drafts."""
        return coupled(self.pair.target, contexts, samplings)

    def choose(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        position: int,
        processor: LogitsProcessor | None = None,
    ) -> int:
        raise NotImplementedError("prompts run in the verifier here")

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Rows:
        """Each context row holds its token."""
        slots = [self._slot(pages, position) for position in range(start, stop)]
        return self._kv[slots].astype(np.float32).reshape(-1, 1)

    def import_chunk(self, pages: Sequence[int], start: int, kv: Kv, rows: Rows | None) -> None:
        raise NotImplementedError("prompts run in the verifier here")

    def _slot(self, pages: Sequence[int], position: int) -> int:
        return pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS


class ToyDrafter:
    """Drafts from its own law with the target's noise; sees context rows only."""

    def __init__(self, pair: ToyPair, gamma: int) -> None:
        self.pair = pair
        self._gamma = gamma
        self._sessions: dict[Hashable, tuple[Sampling, list[int]]] = {}
        self.first_drafts: list[tuple[Context, float]] = []
        """(context, temperature) of the first draft of every block asked for."""

    @property
    def gamma(self) -> int:
        return self._gamma

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        self._sessions[key] = (sampling, [])
        return True

    def append(self, key: Hashable, start: int, rows: Rows) -> int:
        mine = self._sessions[key][1]
        assert start == len(mine)
        mine.extend(int(row[0]) for row in rows)
        return len(mine)

    def cached(self, key: Hashable) -> int | None:
        return len(self._sessions[key][1]) if key in self._sessions else None

    def close(self, key: Hashable) -> None:
        self._sessions.pop(key, None)

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        blocks: list[list[int]] = []
        for request in requests:
            sampling, mine = self._sessions[request.key]
            assert len(mine) == request.base_length
            blocks.append([mine[-1], request.anchor])
            context = (request.base_length + 1, mine[-1], request.anchor)
            self.first_drafts.append((context, sampling.temperature))
        confidences: list[list[float]] = [[] for _ in requests]
        for index in range(max(request.max_tokens for request in requests)):
            going = [i for i, request in enumerate(requests) if index < request.max_tokens]
            contexts = [
                (requests[i].base_length + 1 + index, blocks[i][-2], blocks[i][-1]) for i in going
            ]
            samplings = [self._sessions[requests[i].key][0] for i in going]
            for i, context, token in zip(
                going, contexts, self.chosen(contexts, samplings), strict=True
            ):
                confidences[i].append(float(self.pair.confidence[context]))
                blocks[i].append(token)
        return [
            Proposal(tokens=tuple(block[2:]), confidences=tuple(said))
            for block, said in zip(blocks, confidences, strict=True)
        ]

    def chosen(self, contexts: Sequence[Context], samplings: Sequence[Sampling]) -> list[int]:
        return coupled(self.pair.drafter, contexts, samplings)


def coupled(
    logits: NDArray[np.float32],
    contexts: Sequence[Context],
    samplings: Sequence[Sampling],
    positions: Sequence[int] | None = None,
) -> list[int]:
    """One token a context, by the noise of its position (or of ``positions``)."""
    if positions is None:
        positions = [position for position, _, _ in contexts]
    rows = torch.from_numpy(logits[tuple(np.array(contexts).T)])
    tokens: list[int] = choose_tokens(rows, sampling_batch(samplings, positions)).tolist()
    return tokens


def _softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
