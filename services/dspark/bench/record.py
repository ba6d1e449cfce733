"""Records: what one request brought, as its client saw it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dspark.bench.schedule import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The server's own counts of a generation; sums of several are counts too.

    Attributes:
        steps: Verify steps.
        plain_steps: Those without a draft.
        drafted_steps: Those with one.
        drafted_tokens: Proposed by drafters.
        verified_tokens: Of them, judged by the target; the rest the budget trimmed.
        accepted_tokens: Of those, accepted.
        moved_bytes: Context rows and drafts between verifier and drafter.
    """

    steps: int = 0
    plain_steps: int = 0
    drafted_steps: int = 0
    drafted_tokens: int = 0
    verified_tokens: int = 0
    accepted_tokens: int = 0
    moved_bytes: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        names = [field.name for field in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def read_counts(metrics: Mapping[str, Any]) -> Counts:
    """Read ``metrics`` of an answer; what is missing counts nothing."""
    vllm, ours = metrics.get("speculative_decoding") or {}, metrics.get("dspark") or {}
    return Counts(
        steps=ours.get("steps", 0),
        plain_steps=ours.get("plain_steps", 0),
        drafted_steps=vllm.get("num_spec_steps", 0),
        drafted_tokens=ours.get("drafted_tokens", 0),
        verified_tokens=vllm.get("num_draft_tokens", 0),
        accepted_tokens=vllm.get("num_accepted_draft_tokens", 0),
        moved_bytes=ours.get("row_bytes", 0) + ours.get("draft_bytes", 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One event of a stream: the tokens of one verify step, or the counts at its end."""

    token_ids: tuple[int, ...] = ()
    text: str = ""
    counts: Counts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Tokens that came together."""

    at_s: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request from the client's side.

    Attributes:
        index: Of the request in its cell.
        asked_s: When it was sent; in an open loop when it should have been.
        arrivals: At least one.
        token_ids: All of them.
        text: All of it.
        counts: The server's.
    """

    index: int
    asked_s: float
    arrivals: tuple[Arrival, ...]
    token_ids: tuple[int, ...]
    text: str
    counts: Counts

    def same_output(self, other: "Served") -> bool:
        """Whether tokens and text are the same, and there are any."""
        same = self.token_ids == other.token_ids and self.text == other.text
        return same and bool(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """One cell that ran to its end.

    Attributes:
        cell: What was asked.
        served: By request index.
        began_s: When the first request was due.
        whole_until_s: Until when the load was whole: the first user found nothing left to ask,
            or, in an open loop, the last request ended.
    """

    cell: Cell
    served: tuple[Served, ...]
    began_s: float
    whole_until_s: float
