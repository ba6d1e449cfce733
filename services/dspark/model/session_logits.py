"""Bias, penalties, grammar and log-probabilities of one generation: see `dspark.core.logits`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dspark.core.generation import Generation
from dspark.core.logits import TokenLogprobs
from dspark.model.grammar import GrammarMatcher, Grammars
from dspark_kernels.penalties import penalize


class SessionLogits:
    """The one ``LogitsProcessor``; for one thread.

    Raises:
        ValueError: The rules do not fit the vocabulary, or the grammar does not compile or does
            not allow what was committed.
    """

    def __init__(self, generation: Generation, vocab_size: int, grammars: Grammars | None) -> None:
        rules = generation.rules
        self._rules = rules
        self._top_logprobs = generation.top_logprobs
        self._bias_tokens = np.array([token for token, _ in rules.bias], dtype=np.int64)
        self._bias_values = np.array([value for _, value in rules.bias], dtype=np.float32)
        highest = max((token for token, _ in rules.bias), default=0)
        if highest >= vocab_size:
            raise ValueError(f"logit_bias: token {highest} is outside 0..{vocab_size - 1}")
        self._seen = self._counts = None
        if rules.penalizes:
            self._seen = np.zeros(vocab_size, dtype=np.bool_)
            self._seen[list(generation.prompt)] = True
            self._counts = np.zeros(vocab_size, dtype=np.int32)
        self._grammar: GrammarMatcher | None = None
        if rules.grammar is not None:
            if grammars is None:
                raise ValueError("structured output needs a target with a tokenizer.json")
            self._grammar = grammars.matcher(rules.grammar, generation.stop_tokens)
        self._last: NDArray[np.float32] | None = None  # unprocessed rows of the present step
        self.commit(generation.committed)
        if self.failure is not None:
            raise ValueError(self.failure)

    @property
    def failure(self) -> str | None:
        """See LogitsProcessor."""
        return None if self._grammar is None else self._grammar.failure

    def useful_drafts(self, drafts: Sequence[int], *, judged_by_rejection: bool) -> int:
        """See LogitsProcessor."""
        if self._grammar is None:
            return len(drafts)
        return min(len(drafts), self._grammar.valid(drafts) + judged_by_rejection)

    def process(self, logits: NDArray[np.float32], drafts: Sequence[int]) -> NDArray[np.float32]:
        """See LogitsProcessor."""
        if self._top_logprobs is not None:
            self._last = logits
        if self._rules.neutral:
            return logits
        processed = logits.copy()
        if self._bias_tokens.size:
            processed[:, self._bias_tokens] += self._bias_values
        if self._rules.penalizes:
            self._penalize(processed, drafts)
        if self._grammar is not None:
            processed[~self._grammar.masks(drafts)] = -np.inf
        return processed

    def commit(self, tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        """See LogitsProcessor."""
        if self._seen is not None and self._counts is not None:
            self._seen[list(tokens)] = True
            np.add.at(self._counts, list(tokens), 1)
        if self._grammar is not None:
            self._grammar.commit(tokens)
        if self._last is None or self._top_logprobs is None:
            return ()
        observed = tuple(
            token_logprobs(row, token, self._top_logprobs)
            for row, token in zip(self._last, tokens, strict=False)
        )
        self._last = None
        return observed

    def _penalize(self, logits: NDArray[np.float32], drafts: Sequence[int]) -> None:
        """Penalize each row for the committed tokens and for the drafts before it."""
        assert self._seen is not None
        assert self._counts is not None
        seen, counts = self._seen.copy(), self._counts.copy()
        for row in range(len(logits)):
            if row:
                seen[drafts[row - 1]] = True
                counts[drafts[row - 1]] += 1
            penalize(
                logits[row],
                seen,
                counts,
                repetition=self._rules.repetition_penalty,
                frequency=self._rules.frequency_penalty,
                presence=self._rules.presence_penalty,
            )


def token_logprobs(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprobs:
    """Log-softmax of one row [V] at ``token`` and at the ``top`` likeliest tokens.

    In float64 and by rows, so that it does not depend on the batch.  Of equals the lower id is
    listed first.
    """
    row = logits.astype(np.float64)
    highest = row.max()
    log_total = highest + np.log(np.exp(row - highest).sum())
    best: list[int] = []
    if top:
        top = min(top, len(row))
        cut = np.partition(row, len(row) - top)[len(row) - top]
        candidates = np.flatnonzero(row >= cut)
        best = candidates[np.argsort(-row[candidates], kind="stable")][:top].tolist()
    return TokenLogprobs(
        logprob=float(row[token] - log_total),
        top=tuple((other, float(row[other] - log_total)) for other in best),
    )
