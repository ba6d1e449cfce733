"""Conditions: metav1.Condition as values, and their merge with what was reported before."""

from dataclasses import dataclass
from typing import Literal

from dspark_operator.document import Json, Object, text

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition; ``reason`` is CamelCase and never empty."""

    type: str
    status: Truth
    reason: str
    message: str


def holds(kind: str, reason: str, message: str) -> Condition:
    """Return a condition that is True."""
    return Condition(type=kind, status="True", reason=reason, message=message)


def fails(kind: str, reason: str, message: str) -> Condition:
    """Return a condition that is False."""
    return Condition(type=kind, status="False", reason=reason, message=message)


def unknown(kind: str, reason: str, message: str) -> Condition:
    """Return a condition of which nothing can be said."""
    return Condition(type=kind, status="Unknown", reason=reason, message=message)


def merge(
    before: list[Object], now: list[Condition], *, generation: int, timestamp: str
) -> list[Json]:
    """Return conditions for the status; a time changes only where a status changes.

    Args:
        before: Conditions as reported last.
        now: Conditions as they are.
        generation: metadata.generation that they speak of.
        timestamp: RFC 3339.
    """
    known = {text(condition, "type"): condition for condition in before}
    merged: list[Json] = []
    for condition in now:
        old = known.get(condition.type, {})
        same = text(old, "status") == condition.status
        merged.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": (same and text(old, "lastTransitionTime")) or timestamp,
            }
        )
    return merged
