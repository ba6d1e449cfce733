"""The target as the engines see it: segments in, chosen tokens and rows out; no torch in sight.

It joins ``TargetRunner`` with the samplers of ``dspark_kernels`` and speaks in plain tuples and
numpy arrays, so that engines are tested with fakes that speak integers.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dspark.core.draft import Rows
from dspark.core.draft_laws import DraftLaws
from dspark.core.generation import Generation
from dspark.core.logits import LogitsProcessor
from dspark.core.sampling import Sampling
from dspark.model.batch import RaggedBatch, Segment
from dspark.model.grammar import Grammars
from dspark.model.sampling_rows import sampling_batch
from dspark.model.session_logits import SessionLogits
from dspark.model.target import TargetRunner
from dspark_kernels.rejection_step import decide, target_laws
from dspark_kernels.sampling import choose_tokens, greedy_tokens


class ChoosingSegment(Protocol):
    """A segment whose last ``choose`` rows get tokens."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Input tokens."""

    @property
    def start(self) -> int:
        """Position of the first."""

    @property
    def pages(self) -> tuple[int, ...]:
        """Block table."""

    @property
    def choose(self) -> int:
        """How many of the last rows get tokens."""

    @property
    def sampling(self) -> Sampling:
        """How they are chosen."""

    @property
    def laws(self) -> DraftLaws | None:
        """What the tokens after the first were drawn from, if they are judged by rejection."""

    @property
    def processor(self) -> LogitsProcessor | None:
        """What is done to the chosen rows' logits first."""


class RaggedTarget:
    """A ``TargetRunner`` that chooses tokens; for one thread at a time.

    Args:
        runner: The model.
        grammars: For structured output; None refuses it.
    """

    def __init__(self, runner: TargetRunner, grammars: Grammars | None = None) -> None:
        self._runner = runner
        self._grammars = grammars

    @property
    def vocab_size(self) -> int:
        """Tokens are 0 .. vocab_size - 1."""
        return self._runner.vocab_size

    @property
    def max_context_tokens(self) -> int:
        """Longest sequence."""
        return self._runner.max_context_tokens

    def processor(self, generation: Generation) -> LogitsProcessor:
        """Return what a generation does to its logits (any thread).

        Raises:
            ValueError: See SessionLogits.
        """
        return SessionLogits(generation, self.vocab_size, self._grammars)

    def step(self, segments: Sequence[ChoosingSegment]) -> list[tuple[int, ...]]:
        """Run one ragged forward; return each segment's chosen tokens.

        A segment with laws gets its accepted drafts and the token after them.
        """
        return judge_rows(self._runner.forward(_batch(segments)).logits, segments)

    def law(self, segment: ChoosingSegment) -> NDArray[np.float64]:
        """Run one segment; return the law [vocab] that the token after its last row is drawn from.

        The segment's ``choose`` is 1, and it is sampled, not greedy.
        """
        logits = self._runner.forward(_batch([segment])).logits
        if segment.processor is not None:
            logits = _processed(logits, [segment])
        position = segment.start + len(segment.tokens)
        laws = target_laws(logits, sampling_batch([segment.sampling], [position]))
        law: NDArray[np.float64] = laws[0]
        return law

    def run(
        self, tokens: Sequence[int], start: int, pages: Sequence[int], *, want_logits: bool
    ) -> NDArray[np.float32] | None:
        """Run prompt tokens; return the last row's logits [vocab] if wanted."""
        output = self._runner.forward(
            RaggedBatch(
                segments=[
                    Segment(
                        token_ids=tokens,
                        start=start,
                        block_table=pages,
                        logits_from=len(tokens) - 1 if want_logits else None,
                    )
                ]
            )
        )
        if not want_logits:
            return None
        logits: NDArray[np.float32] = output.logits[-1].float().cpu().numpy()
        return logits

    def choose(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        position: int,
        processor: LogitsProcessor | None = None,
    ) -> int:
        """Choose the token at ``position`` from logits [vocab] computed elsewhere."""
        row = np.array(logits, dtype=np.float32)[None]
        if processor is not None:
            row = processor.process(row, ())
        return _choose(torch.from_numpy(row), [(sampling, position)])[0]

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Rows:
        """Return kept context rows [stop - start, hidden]."""
        return self._runner.rows(pages, start, stop)

    def export_kv(self, pages: Sequence[int], start: int, stop: int) -> list[NDArray[np.generic]]:
        """Return KV of these positions, by layer [n, 2, kv_heads, head_dim]."""
        return self._runner.export_kv(pages, start, stop)

    def import_chunk(
        self,
        pages: Sequence[int],
        start: int,
        kv: Sequence[NDArray[np.generic]],
        rows: Rows | None,
    ) -> None:
        """Write KV (and rows) computed elsewhere."""
        self._runner.import_kv(pages, start, kv)
        if rows is not None:
            self._runner.import_rows(pages, start, rows)


def _batch(segments: Sequence[ChoosingSegment]) -> RaggedBatch:
    return RaggedBatch(
        segments=[
            Segment(
                token_ids=part.tokens,
                start=part.start,
                block_table=part.pages,
                logits_from=len(part.tokens) - part.choose if part.choose else None,
            )
            for part in segments
        ]
    )


def _choose(logits: torch.Tensor, rows: Sequence[tuple[Sampling, int]]) -> list[int]:
    """Choose one token a row: logits [N, V], N pairs of (sampling, position)."""
    if not rows:
        return []
    batch = sampling_batch([sampling for sampling, _ in rows], [position for _, position in rows])
    tokens: list[int] = choose_tokens(logits, batch).tolist()
    return tokens


def judge_rows(logits: torch.Tensor, segments: Sequence[ChoosingSegment]) -> list[tuple[int, ...]]:
    """Each segment's tokens: the target's own of every row or, with laws, what rejection leaves.

    Args:
        logits: [N, V], the segments' chosen rows one after the other.
        segments: What was run.
    """
    if any(part.processor is not None for part in segments):
        logits = _processed(logits, segments)
    if all(part.sampling.greedy and part.laws is None for part in segments):
        return _dealt(greedy_tokens(logits.cpu()).tolist(), segments)
    # How each row is sampled, and the position of the token after it.
    rows = [
        (part.sampling, part.start + len(part.tokens) - part.choose + offset + 1)
        for part in segments
        for offset in range(part.choose)
    ]
    chosen_rows: list[int] = []
    judged_rows: list[int] = []
    first = 0
    for part in segments:
        mine = chosen_rows if part.laws is None else judged_rows
        mine.extend(range(first, first + part.choose))
        first += part.choose
    if not judged_rows:
        return _dealt(_choose(logits, rows), segments)
    chosen = iter(_choose(logits[chosen_rows], [rows[index] for index in chosen_rows]))
    judged = iter(
        decide(
            logits[judged_rows],
            sampling_batch(
                [rows[index][0] for index in judged_rows], [rows[index][1] for index in judged_rows]
            ),
            [(part.tokens[1:], part.laws) for part in segments if part.laws is not None],
        )
    )
    return [
        tuple(itertools.islice(chosen, part.choose)) if part.laws is None else next(judged)
        for part in segments
    ]


def _dealt(tokens: Sequence[int], segments: Sequence[ChoosingSegment]) -> list[tuple[int, ...]]:
    """Tokens of all chosen rows, by segment."""
    chosen = iter(tokens)
    return [tuple(itertools.islice(chosen, part.choose)) for part in segments]


def _processed(logits: torch.Tensor, segments: Sequence[ChoosingSegment]) -> torch.Tensor:
    """The rows as the segments' processors leave them, [N, V] on the CPU."""
    raw: NDArray[np.float32] = logits.float().cpu().numpy()
    parts = []
    first = 0
    for part in segments:
        rows = raw[first : first + part.choose]
        first += part.choose
        if part.processor is not None and part.choose:
            # A prompt's last row, the only one chosen there, follows no draft.
            drafts = part.tokens[1:] if part.choose == len(part.tokens) else ()
            rows = part.processor.process(rows, drafts)
        parts.append(rows)
    return torch.from_numpy(np.concatenate(parts))
