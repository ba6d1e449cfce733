"""Refinement: a profiled curve corrected by the steps that really ran, with bounded trust.

Profiled steps run alone; live ones also commit, stream, and share the machine with whatever
else runs there.  What counts for a budget is the whole turn of the loop, so live turns are
compared with the curve by size, and the curve is scaled where they disagree.  A ratio is believed
as far as it was seen: near the sizes seen it counts in full, far from them their common mean
does, and with few steps the curve itself does.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from dspark.core.curve import Curve, CurvePoint, step_seconds

MAX_RATIO = 3.0
"""No refinement scales a point by more, up or down."""

_PRIOR_STEPS = 32.0  # the curve's own word weighs as much as so many steps
_MEMORY_STEPS = 256.0  # older steps fade
_MAX_PENDING = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCell:
    """How steps of about one size went.

    Attributes:
        sessions: Sessions in these steps.
        batch_tokens: Tokens in these steps.
        steps: How many, older ones fading.
        ratio: Their mean seconds over those of the profiled curve.
    """

    sessions: int
    batch_tokens: int
    steps: float
    ratio: float


class Refinement:
    """Gathers live steps against one profiled curve.

    ``observe`` is cheap and for the engine's thread alone; ``cells`` may be read from any thread.
    """

    def __init__(self, curve: Curve) -> None:
        self._curve = curve
        self._refined = curve
        self._pending: list[tuple[int, int, float, float]] = []
        self._cells: dict[tuple[int, int], StepCell] = {}
        self.cells: tuple[StepCell, ...] = ()
        self.surprise = 1.0
        """Seconds of the steps folded last over those of the curve as it was refined before."""

    def observe(
        self, *, sessions: int, batch_tokens: int, context_tokens: float, step_s: float
    ) -> None:
        """Note one turn: a step with all that the loop did around it except waiting."""
        self._pending.append((sessions, batch_tokens, context_tokens, step_s))
        if len(self._pending) >= _MAX_PENDING:
            self.fold()

    def fold(self) -> Curve:
        """Work off what was observed and return the curve as refined by it."""
        if self._pending:
            self.surprise = sum(step_s for *_, step_s in self._pending) / sum(
                step_seconds(
                    self._refined,
                    sessions=sessions,
                    batch_tokens=batch_tokens,
                    context_tokens=context_tokens,
                )
                for sessions, batch_tokens, context_tokens, _ in self._pending
            )
        for sessions, batch_tokens, context_tokens, step_s in self._pending:
            expected_s = step_seconds(
                self._curve,
                sessions=sessions,
                batch_tokens=batch_tokens,
                context_tokens=context_tokens,
            )
            self._add(sessions, batch_tokens, step_s / expected_s)
        self._pending.clear()
        self.cells = tuple(self._cells.values())
        self._refined = refine(self._curve, self.cells)
        return self._refined

    def _add(self, sessions: int, batch_tokens: int, ratio: float) -> None:
        # One cell for each doubling of sessions and each token a session.
        key = (round(2 * math.log2(sessions)), round(batch_tokens / sessions))
        ratio = min(max(ratio, 1 / MAX_RATIO), MAX_RATIO)  # one stall must not count as many
        old = self._cells.get(key)
        if old is None:
            self._cells[key] = StepCell(
                sessions=sessions, batch_tokens=batch_tokens, steps=1.0, ratio=ratio
            )
            return
        steps = min(old.steps + 1.0, _MEMORY_STEPS)
        self._cells[key] = replace(old, steps=steps, ratio=old.ratio + (ratio - old.ratio) / steps)


def refine(curve: Curve, cells: Iterable[StepCell]) -> Curve:
    """Scale each point of ``curve`` by the ratios seen at and near its size.

    The result keeps the version (it is the same device, model and engine) and stays monotone in
    batch tokens.
    """
    seen = tuple(cells)
    if not seen:
        return curve
    everywhere = _blend(1.0, [(cell.steps, cell.ratio) for cell in seen])
    points: list[CurvePoint] = []
    ordered = sorted(curve.points, key=lambda p: (p.context_tokens, p.sessions, p.batch_tokens))
    for _, row in groupby(ordered, key=lambda p: (p.context_tokens, p.sessions)):
        dearest_s = 0.0
        for point in row:
            near = [(cell.steps * _nearness(point, cell), cell.ratio) for cell in seen]
            dearest_s = max(dearest_s, point.step_s * _blend(everywhere, near))
            points.append(replace(point, step_s=dearest_s))
    return replace(curve, points=tuple(points))


def _blend(prior: float, weighted: list[tuple[float, float]]) -> float:
    total = _PRIOR_STEPS + sum(weight for weight, _ in weighted)
    return (_PRIOR_STEPS * prior + sum(weight * ratio for weight, ratio in weighted)) / total


def _nearness(point: CurvePoint, cell: StepCell) -> float:
    """Return 1 at the cell's own size, half of it for each doubling or token a session away."""
    doublings = abs(math.log2(point.sessions / cell.sessions))
    each = abs(point.batch_tokens / point.sessions - cell.batch_tokens / cell.sessions)
    return float(0.5 ** (doublings + each))
