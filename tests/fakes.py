"""Fakes that speak integers: a target and a drafter small enough to know every answer.

The target's "KV" is the tokens themselves, written into pages, so that a slip in paging or in
positions changes the output.  The drafter sees context rows only (each row holds its token), so
that a slip in rows lowers acceptance or is caught by its own check.
"""

import time
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from dspark.core.draft import DraftRequest, Proposal, Rows
from dspark.core.generation import Generation
from dspark.core.logits import LogitsProcessor, TokenLogprobs
from dspark.core.sampling import Sampling
from dspark.verifier.target_port import Segment

VOCAB = 97
PAGE_TOKENS = 4


def next_token(context: Sequence[int], sampling: Sampling) -> int:
    """The one true next token: depends on every token before, in order, and on the seed."""
    state = 17 + (0 if sampling.greedy else 31 * sampling.seed + sampling.choice)
    for token in context:
        state = (state * 31 + token + 7) % 1_000_003
    return state % VOCAB


def continuation(prompt: Sequence[int], count: int, sampling: Sampling) -> list[int]:
    """What any correct system must generate."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, sampling))
    return tokens[len(prompt) :]


class FakeProcessor:
    """Changes nothing, reports each token's negative as its log-probability, and may give up."""

    def __init__(self, gives_up_after: int) -> None:
        self._left = gives_up_after

    @property
    def failure(self) -> str | None:
        return None if self._left > 0 else "the grammar cannot be followed"

    def useful_drafts(self, drafts: Sequence[int], *, judged_by_rejection: bool) -> int:
        return len(drafts)

    def process(self, logits: NDArray[np.float32], drafts: Sequence[int]) -> NDArray[np.float32]:
        return logits

    def commit(self, tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        self._left -= len(tokens)
        return tuple(TokenLogprobs(logprob=-float(token), top=((token, -1.0),)) for token in tokens)


class FakeTarget:
    """A target whose KV is its tokens."""

    def __init__(self, num_pages: int, max_context_tokens: int = 4096, step_s: float = 0.0) -> None:
        self.step_s = step_s
        self._kv = np.full((num_pages, PAGE_TOKENS), -1, dtype=np.int64)
        self._max_context_tokens = max_context_tokens
        self.steps: list[tuple[int, int]] = []
        self.gives_up_after = 1_000_000

    @property
    def vocab_size(self) -> int:
        return VOCAB

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    def processor(self, generation: Generation) -> LogitsProcessor:
        return FakeProcessor(self.gives_up_after)

    def _context(self, pages: Sequence[int], stop: int) -> list[int]:
        flat = self._kv[list(pages)].reshape(-1)[:stop].tolist()
        assert -1 not in flat, "a position was read before it was written"
        return flat

    def _write(self, pages: Sequence[int], start: int, tokens: Sequence[int]) -> None:
        for position, token in enumerate(tokens, start):
            self._kv[pages[position // PAGE_TOKENS], position % PAGE_TOKENS] = token

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        time.sleep(self.step_s)
        self.steps.append((len(segments), sum(len(part.tokens) for part in segments)))
        chosen = []
        for part in segments:
            self._write(part.pages, part.start, part.tokens)
            stop = part.start + len(part.tokens)
            chosen.append(
                tuple(
                    next_token(self._context(part.pages, row + 1), part.sampling)
                    for row in range(stop - part.choose, stop)
                )
            )
        return chosen

    def law(self, segment: Segment) -> NDArray[np.float64]:
        """The one true token has all the mass."""
        ((token,),) = self.step([segment])
        return np.eye(VOCAB)[token]

    def run(
        self, tokens: Sequence[int], start: int, pages: Sequence[int], *, want_logits: bool
    ) -> NDArray[np.float32] | None:
        """Prefill; the "logits" are the context itself."""
        self._write(pages, start, tokens)
        if not want_logits:
            return None
        return np.array(self._context(pages, start + len(tokens)), dtype=np.float32)

    def choose(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        position: int,
        processor: LogitsProcessor | None = None,
    ) -> int:
        assert len(logits) == position
        return next_token([int(token) for token in logits], sampling)

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Rows:
        context = self._context(pages, stop)[start:stop]
        return np.array(context, dtype=np.float32).reshape(-1, 1)

    def export_kv(self, pages: Sequence[int], start: int, stop: int) -> list[NDArray[np.generic]]:
        context = self._context(pages, stop)[start:stop]
        return [np.array(context, dtype=np.float32).reshape(-1, 1, 1, 1)]

    def import_chunk(
        self,
        pages: Sequence[int],
        start: int,
        kv: Sequence[NDArray[np.generic]],
        rows: Rows | None,
    ) -> None:
        self._write(pages, start, [int(value) for value in kv[0].reshape(-1)])


class FakeDrafter:
    """Drafts the true continuation, wrong at every ``wrong_every``-th position of the sequence."""

    def __init__(self, gamma: int = 7, wrong_every: int = 5, max_sessions: int = 64) -> None:
        self._gamma = gamma
        self._wrong_every = wrong_every
        self._max_sessions = max_sessions
        self._rows: dict[Hashable, list[int]] = {}
        self._sampling: dict[Hashable, Sampling] = {}
        self.batches: list[int] = []

    @property
    def gamma(self) -> int:
        return self._gamma

    @property
    def num_sessions(self) -> int:
        return len(self._rows)

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        if key not in self._rows and len(self._rows) >= self._max_sessions:
            return False
        self._rows[key] = []
        self._sampling[key] = sampling
        return True

    def append(self, key: Hashable, start: int, rows: Rows) -> int:
        mine = self._rows[key]
        if start != len(mine):
            raise ValueError(f"rows start at {start}, {len(mine)} are cached")
        mine.extend(int(row[0]) for row in rows)
        return len(mine)

    def cached(self, key: Hashable) -> int | None:
        return len(self._rows[key]) if key in self._rows else None

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        self.batches.append(len(requests))
        proposals = []
        for request in requests:
            context = [*self._rows[request.key], request.anchor]
            assert len(context) == request.base_length + 1
            tokens = []
            for _ in range(request.max_tokens):
                token = next_token([*context, *tokens], self._sampling[request.key])
                if (len(context) + len(tokens)) % self._wrong_every == 0:
                    token = (token + 1) % VOCAB
                tokens.append(token)
            confidences = tuple(0.9 - 0.01 * k for k in range(len(tokens)))
            proposals.append(Proposal(tokens=tuple(tokens), confidences=confidences))
        return proposals

    def close(self, key: Hashable) -> None:
        self._rows.pop(key, None)
        self._sampling.pop(key, None)
