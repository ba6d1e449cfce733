"""What the engine asks of a target model: segments of tokens in, the target's own tokens out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dspark.core.draft import Rows
from dspark.core.draft_laws import DraftLaws
from dspark.core.generation import Generation
from dspark.core.logits import LogitsProcessor
from dspark.core.sampling import Sampling

Kv = Sequence[NDArray[np.generic]]
"""KV of some positions: one array [n, 2, kv_heads, head_dim] a layer."""


class Segment(NamedTuple):
    """Consecutive new tokens of one session in a ragged batch.

    A tuple, as `core.verdict.Verdict` is: one is made for every session and step.

    Attributes:
        tokens: Input tokens at positions start .. start + len(tokens) - 1.
        start: Position of the first; KV of all before it is in the pages.
        pages: The session's pages.
        choose: For how many of the last rows the target's next token is wanted.
        sampling: How it is chosen.
        laws: What the tokens after the first were drawn from, where they are drafts to be
            judged by rejection; then ``choose`` covers all rows.
        processor: What is done to the logits before a token is chosen.
    """

    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    choose: int
    sampling: Sampling
    laws: DraftLaws | None = None
    processor: LogitsProcessor | None = None


class Target(Protocol):
    """A target model over a paged KV pool; not thread-safe."""

    @property
    def vocab_size(self) -> int:
        """Tokens are 0 .. vocab_size - 1."""

    @property
    def max_context_tokens(self) -> int:
        """Longest sequence."""

    def processor(self, generation: Generation) -> LogitsProcessor:
        """Return what a generation does to its logits; called from any thread.

        Asked only where it does anything.  Raises ValueError for rules that cannot be followed.
        """

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        """Run one ragged forward; return each segment's tokens.

        Without laws they are the target's tokens of the last ``choose`` rows.  With laws they
        are the drafts that are accepted, then the target's own token: 1 .. ``choose`` of them.

        The token chosen at row p is the sequence's token at position p + 1, and its noise is
        keyed by that position.
        """

    def choose(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        position: int,
        processor: LogitsProcessor | None = None,
    ) -> int:
        """Choose the token at ``position`` from logits [vocab] computed elsewhere."""

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Rows:
        """Return the kept context rows [stop - start, hidden] of these positions."""

    def import_chunk(self, pages: Sequence[int], start: int, kv: Kv, rows: Rows | None) -> None:
        """Write KV (and rows) computed elsewhere."""
