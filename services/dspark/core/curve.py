"""SPS curves: what a step costs, by sessions, batch tokens and context length."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One profiled point: the median of its repeats."""

    context_tokens: int
    sessions: int
    batch_tokens: int
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Step cost of one replica, monotone in batch tokens.

    Attributes:
        version: Digest of model, device, engine, threads and software version.
        device: For people.
        points: At least one; at most one for each (context, sessions, batch tokens).
    """

    version: str
    device: str
    points: tuple[CurvePoint, ...]
