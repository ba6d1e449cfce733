"""SPS curves: what a step costs, by sessions, batch tokens and context length.

Cost is a staircase (graph buckets, kernel tiles), so a size between two measured ones costs what
the larger one costs.  Above the largest measured size cost grows along the row's chord.  Between
measured session counts and context lengths, where cost is smooth, it is interpolated; outside
them the nearest one counts.

A walk that goes one token at a time cannot see over a stair: it takes the ramp, the greatest
convex function below the stairs (``ramp_seconds``).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import numpy as np
from numpy.typing import NDArray

FLAT_RATIO = 1.02
"""A curve whose dearest step costs less than this many times its cheapest is called flat."""

Seconds = NDArray[np.float64]


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

    def __hash__(self) -> int:
        # Cheap, because every lookup is keyed by it; equality still compares the points.
        return hash((self.version, self.device, len(self.points)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """Costs of one (context, sessions) by batch tokens, ascending."""

    sessions: int
    batch_tokens: NDArray[np.int64]
    step_s: Seconds
    slope_s: float  # seconds a token above the largest size
    ramp_tokens: NDArray[np.int64]  # corners of the greatest convex function below
    ramp_s: Seconds
    ramp_slope_s: float


def make_curve(version: str, device: str, samples: Sequence[CurvePoint]) -> Curve:
    """Build a curve: the median of repeats, forced monotone.

    A step is never dearer than one with more context, more batch tokens, or more sessions of as
    many tokens each.

    Args:
        version: Digest of model, device, engine, threads and software version.
        device: For people.
        samples: Measurements; a (context, sessions, batch tokens) may be repeated.

    Raises:
        ValueError: There are no samples, or a value is not positive and finite.
    """
    if not samples:
        raise ValueError("a curve needs at least one sample")
    repeats: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for sample in samples:
        if not (math.isfinite(sample.step_s) and sample.step_s > 0):
            raise ValueError(f"a step cannot take {sample.step_s} s: {sample}")
        if sample.sessions < 1 or sample.batch_tokens < 1 or sample.context_tokens < 0:
            raise ValueError(f"a step has sessions and tokens: {sample}")
        key = (sample.context_tokens, sample.sessions, sample.batch_tokens)
        repeats[key].append(sample.step_s)
    step_s = {size: median(own) for size, own in repeats.items()}
    # What a machine does besides makes a step slower, never faster: of a larger step that took
    # less time than a smaller one, the larger is to be believed.
    _not_above_larger(step_s, lambda context, sessions, tokens: (sessions, tokens))
    _not_above_larger(step_s, lambda context, sessions, tokens: (context, tokens / sessions))
    _not_above_larger(step_s, lambda context, sessions, tokens: (context, sessions))
    points = [
        CurvePoint(context_tokens=context, sessions=sessions, batch_tokens=tokens, step_s=seconds)
        for (context, sessions, tokens), seconds in sorted(step_s.items())
    ]
    return Curve(version=version, device=device, points=tuple(points))


def _not_above_larger(
    step_s: dict[tuple[int, int, int], float], line: Callable[[int, int, int], Hashable]
) -> None:
    """Lower costs to those of larger steps along a line; sizes sort by growing cost."""
    cheapest: dict[Hashable, float] = {}
    for size in sorted(step_s, reverse=True):
        step_s[size] = cheapest[line(*size)] = min(
            step_s[size], cheapest.get(line(*size), math.inf)
        )


@lru_cache(maxsize=256)
def curve_problem(curve: Curve | None) -> str | None:
    """Say in one sentence why a curve cannot guide a budget, or return None."""
    if curve is None or not curve.points:
        return "missing: no step curve was measured"
    for point in curve.points:
        if not (math.isfinite(point.step_s) and point.step_s > 0):
            return f"broken: {point.batch_tokens} tokens are said to take {point.step_s} s"
        if point.sessions < 1 or point.batch_tokens < 1:
            return f"broken: a point has {point.sessions} sessions, {point.batch_tokens} tokens"
    sizes = {point.batch_tokens for point in curve.points}
    if len(sizes) < 2:
        return f"too few points: only {min(sizes)} batch tokens were measured"
    cheapest_s = min(point.step_s for point in curve.points)
    dearest_s = max(point.step_s for point in curve.points)
    if dearest_s < FLAT_RATIO * cheapest_s:
        return (
            f"flat: {max(sizes)} tokens cost no more than {min(sizes)}; "
            "were these sizes really run?"
        )
    return None


def step_seconds(curve: Curve, *, sessions: int, batch_tokens: int, context_tokens: float) -> float:
    """Return the seconds of one step.

    Args:
        curve: A curve with at least one point.
        sessions: Sessions in the step, at least 1.
        batch_tokens: Tokens in the step: one for each session and the drafts.
        context_tokens: Mean context length of its sessions.
    """
    sizes = np.array([batch_tokens], dtype=np.int64)
    seconds = steps_seconds(
        curve, sessions=sessions, batch_tokens=sizes, context_tokens=context_tokens
    )
    return float(seconds[0])


def draft_seconds(curve: Curve, *, sessions: int, block_size: int) -> float:
    """Return the seconds of a drafter's batch: whole blocks, whatever the context.

    Args:
        curve: A drafter's.
        sessions: In the batch, at least 1.
        block_size: gamma.
    """
    return step_seconds(
        curve, sessions=sessions, batch_tokens=sessions * max(block_size, 1), context_tokens=0
    )


def sps(curve: Curve, *, sessions: int, batch_tokens: int, context_tokens: float) -> float:
    """Return steps a second; the arguments are those of ``step_seconds``."""
    return 1.0 / step_seconds(
        curve, sessions=sessions, batch_tokens=batch_tokens, context_tokens=context_tokens
    )


def steps_seconds(
    curve: Curve, *, sessions: int, batch_tokens: NDArray[np.int64], context_tokens: float
) -> Seconds:
    """Return the seconds of steps of many sizes at once; see ``step_seconds``."""
    return _seconds(curve, sessions, batch_tokens, context_tokens, _row_seconds)


def ramp_seconds(
    curve: Curve, *, sessions: int, batch_tokens: NDArray[np.int64], context_tokens: float
) -> Seconds:
    """Return the greatest convex seconds that are nowhere above those of ``steps_seconds``.

    At the inner edge of a stair both agree; within it the ramp is below.  By it each token's price
    is what a token costs on the way to the next edge worth going to, and prices never fall.
    """
    return _seconds(curve, sessions, batch_tokens, context_tokens, _row_ramp_seconds)


def contexts_of(curve: Curve) -> tuple[int, ...]:
    """Return the context lengths that were measured, ascending."""
    return _grid(curve)[0]


def max_sessions_of(curve: Curve) -> int:
    """Return the largest session count that was measured."""
    return max(point.sessions for point in curve.points)


@lru_cache(maxsize=256)
def _grid(curve: Curve) -> tuple[tuple[int, ...], tuple[tuple[_Row, ...], ...]]:
    """Return the contexts and, for each, its rows by sessions.

    Monotone here too: a curve may come from a peer that did not force it.
    """
    cells: dict[int, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for point in curve.points:
        cells[point.context_tokens][point.sessions][point.batch_tokens] = point.step_s
    contexts = tuple(sorted(cells))
    return contexts, tuple(
        tuple(_row(sessions, cells[context][sessions]) for sessions in sorted(cells[context]))
        for context in contexts
    )


def _row(sessions: int, costs: dict[int, float]) -> _Row:
    sizes = np.array(sorted(costs), dtype=np.int64)
    step_s = np.maximum.accumulate(np.array([costs[int(size)] for size in sizes]))
    if len(sizes) > 1:
        slope_s = float((step_s[-1] - step_s[0]) / (sizes[-1] - sizes[0]))
    else:
        slope_s = float(step_s[0] / sizes[0])  # proportional: the dearest plausible guess
    corners = _convex_corners(sizes, step_s)
    return _Row(
        sessions=sessions,
        batch_tokens=sizes,
        step_s=step_s,
        slope_s=slope_s,
        ramp_tokens=sizes[corners],
        ramp_s=step_s[corners],
        ramp_slope_s=max(slope_s, _last_slope(sizes[corners], step_s[corners])),
    )


def _convex_corners(sizes: NDArray[np.int64], step_s: Seconds) -> list[int]:
    """Return the indices of the lower convex hull of the points (size, seconds)."""
    corners: list[int] = []
    for index in range(len(sizes)):
        while len(corners) > 1:
            before, last = corners[-2:]
            rise = (step_s[last] - step_s[before]) * (sizes[index] - sizes[before])
            if rise < (step_s[index] - step_s[before]) * (sizes[last] - sizes[before]):
                break
            corners.pop()  # it lies on or above the line between its neighbours
        corners.append(index)
    return corners


def _last_slope(sizes: NDArray[np.int64], step_s: Seconds) -> float:
    if len(sizes) < 2:
        return 0.0
    return float((step_s[-1] - step_s[-2]) / (sizes[-1] - sizes[-2]))


_RowSeconds = Callable[[_Row, NDArray[np.int64]], Seconds]


def _seconds(
    curve: Curve,
    sessions: int,
    batch_tokens: NDArray[np.int64],
    context_tokens: float,
    of_row: _RowSeconds,
) -> Seconds:
    contexts, layers = _grid(curve)
    low, high, share = _between(contexts, context_tokens)
    seconds = _layer_seconds(layers[low], sessions, batch_tokens, of_row)
    if low != high:
        above = _layer_seconds(layers[high], sessions, batch_tokens, of_row)
        seconds += share * (above - seconds)
    return seconds


def _layer_seconds(
    rows: tuple[_Row, ...], sessions: int, batch_tokens: NDArray[np.int64], of_row: _RowSeconds
) -> Seconds:
    low, high, share = _between([row.sessions for row in rows], sessions)
    seconds = of_row(rows[low], batch_tokens)
    if low != high:
        seconds += share * (of_row(rows[high], batch_tokens) - seconds)
    return seconds


def _row_seconds(row: _Row, batch_tokens: NDArray[np.int64]) -> Seconds:
    index = np.searchsorted(row.batch_tokens, batch_tokens, side="left")
    beyond = np.maximum(batch_tokens - row.batch_tokens[-1], 0)
    seconds: Seconds = row.step_s[np.minimum(index, len(row.step_s) - 1)] + row.slope_s * beyond
    return seconds


def _row_ramp_seconds(row: _Row, batch_tokens: NDArray[np.int64]) -> Seconds:
    beyond = np.maximum(batch_tokens - row.ramp_tokens[-1], 0)
    seconds: Seconds = np.interp(batch_tokens, row.ramp_tokens, row.ramp_s)
    seconds += row.ramp_slope_s * beyond
    return seconds


def _between(marks: Sequence[int], value: float) -> tuple[int, int, float]:
    """Return (low, high, share) with value = marks[low] + share * (marks[high] - marks[low]).

    Outside the marks the nearest one is returned twice.
    """
    if value <= marks[0]:
        return 0, 0, 0.0
    if value >= marks[-1]:
        return len(marks) - 1, len(marks) - 1, 0.0
    high = next(i for i, mark in enumerate(marks) if mark >= value)
    return high - 1, high, (value - marks[high - 1]) / (marks[high] - marks[high - 1])
