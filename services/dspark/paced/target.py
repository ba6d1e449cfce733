"""A paced target: prefill's and the verifier's, for one thread at a time."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from dspark.config.paced import EnginePace
from dspark.core.draft import Rows
from dspark.core.generation import Generation
from dspark.core.logits import LogitsProcessor
from dspark.core.sampling import Sampling
from dspark.model.ragged_target import ChoosingSegment
from dspark.paced.clock import Device, PaceClock, RealClock
from dspark.paced.text import PacedText


class PacedTarget:
    """Sleeps its steps and answers from a ``PacedText``.

    Its KV is empty: the next token depends on the one before, which every step is given.
    """

    def __init__(
        self,
        text: PacedText,
        pace: EnginePace,
        *,
        dilation: float,
        hidden_size: int,
        rows_dtype: str,
        max_context_tokens: int,
        device: Device | None = None,
    ) -> None:
        self._text = text
        self._pace = pace
        self._dilation = dilation
        self._hidden_size = hidden_size
        # Numpy has no bfloat16: its bits travel as uint16.
        self._rows_dtype = np.dtype("uint16" if rows_dtype == "bfloat16" else rows_dtype)
        self._max_context_tokens = max_context_tokens
        self._device = device or nullcontext()
        self.clock: PaceClock = RealClock()

    @property
    def vocab_size(self) -> int:
        """Tokens are 0 .. vocab_size - 1."""
        return self._text.vocab_size

    @property
    def max_context_tokens(self) -> int:
        """Longest sequence."""
        return self._max_context_tokens

    def processor(self, generation: Generation) -> LogitsProcessor:
        """Refuse: there are no logits to process."""
        raise ValueError(
            "a paced model has no logits: penalties, logit_bias, logprobs and response_format "
            "need a model that computes"
        )

    def step(self, segments: Sequence[ChoosingSegment]) -> list[tuple[int, ...]]:
        """Answer a ragged batch when its time has passed."""
        with self._device:
            began_s = self.clock.now()
            chosen = [self._chosen(part) for part in segments]
            self._pass(
                began_s,
                tokens=sum(len(part.tokens) for part in segments),
                context_tokens=sum(part.start for part in segments),
            )
        return chosen

    def law(self, segment: ChoosingSegment) -> NDArray[np.float64]:
        """Run one segment; return the law [vocab] of the token after it, which is certain."""
        ((token,),) = self.step([segment])
        law = np.zeros(self.vocab_size)
        law[token] = 1.0
        return law

    def run(
        self, tokens: Sequence[int], start: int, pages: Sequence[int], *, want_logits: bool
    ) -> NDArray[np.float32] | None:
        """Take prompt tokens; the "logits" mark the last of them."""
        self._pass(self.clock.now(), tokens=len(tokens), context_tokens=start)
        if not want_logits:
            return None
        logits = np.zeros(self.vocab_size, dtype=np.float32)
        logits[tokens[-1]] = 1.0
        return logits

    def choose(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        position: int,
        processor: LogitsProcessor | None = None,
    ) -> int:
        """Choose the token at ``position`` after the one that ``logits`` mark."""
        return self._text.next_token(int(logits.argmax()), position, sampling)

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Rows:
        """Return empty context rows, as large as real ones."""
        return np.zeros((stop - start, self._hidden_size), dtype=self._rows_dtype)

    def export_kv(self, pages: Sequence[int], start: int, stop: int) -> list[NDArray[np.generic]]:
        """Return the least that counts as KV."""
        return [np.zeros((stop - start, 2, 1, 1), dtype=np.float32)]

    def import_chunk(
        self,
        pages: Sequence[int],
        start: int,
        kv: Sequence[NDArray[np.generic]],
        rows: Rows | None,
    ) -> None:
        """Take KV computed elsewhere: there is nothing to keep."""

    def _chosen(self, part: ChoosingSegment) -> tuple[int, ...]:
        chosen = []
        for index in range(len(part.tokens) - part.choose, len(part.tokens)):
            position = part.start + index + 1
            token = self._text.next_token(part.tokens[index], position, part.sampling)
            chosen.append(token)
            # Judged by rejection, a one-hot q is accepted iff it names the only token p allows.
            last = index + 1 == len(part.tokens)
            if part.laws is not None and not last and part.tokens[index + 1] != token:
                break
        return tuple(chosen)

    def _pass(self, began_s: float, *, tokens: int, context_tokens: int) -> None:
        step_s = self._pace.step_seconds(tokens=tokens, context_tokens=context_tokens)
        self.clock.wait_until(began_s + self._dilation * step_s)
