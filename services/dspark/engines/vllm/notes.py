"""What the proposer tells the replica of each step: values, and their form on the line.

A note is one datagram of JSON.  Sums are totals since the start, so that a lost note loses the
step's rounds and nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundNote:
    """One request's part of a step: its draft, and what became of it.

    Attributes:
        session: Number that the pool knows the request by; 0 for requests of others.
        mode: What its confidences are calibrated for: ``greedy`` or ``rejection``.
        context_tokens: Tokens committed before the step.
        committed: Tokens that the step committed.
        drafted: The draft, as proposed.
        confidences: One for each of them.
        verified: How many of them vLLM verified.
        accepted: How many of those were committed.
        row_bytes: Bytes of context rows that were sent for it.
        draft_bytes: Bytes of draft blocks that came for it, since it is drafted for.
    """

    session: int
    mode: str
    context_tokens: int
    committed: int
    drafted: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    verified: int = 0
    accepted: int = 0
    row_bytes: int = 0
    draft_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNote:
    """One step of the engine.

    Attributes:
        batch_tokens: Tokens of its forward.
        prompt_tokens: Those of prompts.
        step_s: From the forward's begin to the end of what follows it, waiting for drafts left out.
        turn_s: The same from the last step's end; None where the engine had nothing to do between.
        rounds: Requests that were decoded.
        entry: The budget's entry for the drafts that were asked for; None: no budget.
        drafters: Connected ones.
        round_trip_s: Smoothed seconds of a draft's round trip.
        round_trips_s: Those that were measured since the last note.
        row_bytes: Of context rows sent, in all.
        draft_bytes: Of draft blocks received, in all.
        outcomes: Drafts by what became of them, in all.
        failure: What ended drafting for good; "": nothing.
        epoch: Of the budget in use; 0: none.
        term: Highest term of a budget that came; 0: none.
        unsent: Notes that found no room on the line, in all.
    """

    batch_tokens: int
    prompt_tokens: int
    step_s: float
    turn_s: float | None
    rounds: tuple[RoundNote, ...] = ()
    entry: int | None = None
    drafters: int = 0
    round_trip_s: float = 0.0
    round_trips_s: tuple[float, ...] = ()
    row_bytes: int = 0
    draft_bytes: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""
    epoch: int = 0
    term: int = 0
    unsent: int = 0


_ROUND = tuple(RoundNote.__dataclass_fields__)
_STEP = tuple(name for name in StepNote.__dataclass_fields__ if name != "rounds")
_round_values, _step_values = attrgetter(*_ROUND), attrgetter(*_STEP)


def encode(note: StepNote) -> bytes:
    """Return its datagram."""
    rounds = [_round_values(each) for each in note.rounds]
    return json.dumps([_step_values(note), rounds], separators=(",", ":")).encode()


def decode(datagram: bytes) -> StepNote:
    """Read a datagram.

    Raises:
        ValueError: It is none of ours.
    """
    try:
        step, rounds = json.loads(datagram)
        values = dict(zip(_STEP, step, strict=True))
        values["round_trips_s"] = tuple(values["round_trips_s"])
        return StepNote(**values, rounds=tuple(_round(each) for each in rounds))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"a note of {len(datagram)} bytes cannot be read: {error}") from None


def _round(values: list[Any]) -> RoundNote:
    named = dict(zip(_ROUND, values, strict=True))
    for name in ("drafted", "confidences"):
        named[name] = tuple(named[name])
    return RoundNote(**named)
