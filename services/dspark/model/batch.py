"""What one forward pass of the target is asked, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """New tokens of one session.

    Attributes:
        token_ids: At least one token.
        start: Position of the first; everything before it is in the pages already.
        block_table: Page ids of the session in position order; must cover the new tokens.
        logits_from: Index of the first token whose logits are wanted, all later ones included;
            None for no logits.
    """

    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    logits_from: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedBatch:
    """Segments of different sessions, run together; at least one."""

    segments: Sequence[Segment]

    @property
    def num_tokens(self) -> int:
        """T: tokens of all segments."""
        return sum(len(segment.token_ids) for segment in self.segments)

    def logits_rows(self) -> list[int]:
        """Indices into the flat batch of the tokens whose logits are wanted, in order."""
        rows: list[int] = []
        first = 0
        for segment in self.segments:
            count = len(segment.token_ids)
            if segment.logits_from is not None:
                rows.extend(range(first + segment.logits_from, first + count))
            first += count
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """Answer of one forward pass.

    Attributes:
        logits: [N, V] float32 of the wanted rows, segment by segment.
    """

    logits: torch.Tensor
