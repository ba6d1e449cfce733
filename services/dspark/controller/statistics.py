"""Statistics: what plans are computed from, gathered over replicas: acceptance and curves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from dspark.core.curve import Curve, curve_problem, make_curve
from dspark.core.fleet import LoadReport, Replica
from dspark.core.ids import PoolName
from dspark.core.issue import BudgetKey
from dspark.core.reports import MAX_VECTORS
from dspark.core.reservoir import Acceptance, Reservoir, pool_survivals

MAX_CURVES = 64
"""Classes whose curves are remembered, those with replicas among them."""

_HALF_LIFE_ROUNDS = 2000
_MIN_JUDGED = 20.0  # fewer make no share
_CURVES_POOLED = 5  # replicas whose measurements make a class's curve


class Statistics:
    """Committed survivals by pool and curves by class; computed again only on a change."""

    def __init__(self, reservoir_size: int) -> None:
        self._reservoir_size = reservoir_size
        self._reservoirs: dict[PoolName, Reservoir] = {}
        self._acceptance: dict[PoolName, tuple[int, Acceptance]] = {}
        self._judged: dict[PoolName, list[tuple[float, float, float]]] = {}
        self._curves: dict[BudgetKey, Curve] | None = None  # None: to be made again
        self._remembered: dict[BudgetKey, Curve] = {}

    def add(self, replica: Replica, survivals: Sequence[tuple[float, ...]]) -> None:
        """Take in the survivals of a verifier's committed rounds, newest last."""
        if replica.pool not in self._reservoirs:
            self._reservoirs[replica.pool] = Reservoir(self._reservoir_size)
        self._reservoirs[replica.pool].add(replica.name, survivals[-MAX_VECTORS:])

    def add_judged(self, pool: PoolName, report: LoadReport) -> None:
        """Take in drafts judged, accepted and their confidences by position; old ones fade."""
        fresh = list(
            zip(
                report.judged_by_position,
                report.accepted_by_position,
                report.confidence_by_position,
                strict=True,
            )
        )
        mine = self._judged.setdefault(pool, [])
        mine += [(0.0, 0.0, 0.0)] * (len(fresh) - len(mine))
        fade = 0.5 ** (fresh[0][0] / _HALF_LIFE_ROUNDS) if fresh else 1.0
        for k, old in enumerate(mine):
            new = fresh[k] if k < len(fresh) else (0, 0, 0.0)
            mine[k] = (fade * old[0] + new[0], fade * old[1] + new[1], fade * old[2] + new[2])

    def judged_by_position(self, pool: PoolName) -> list[tuple[float, float]]:
        """Return (share accepted, mean confidence) of drafts judged, by position, where known."""
        known = self._judged.get(pool, [])
        return [(kept / seen, said / seen) for seen, kept, said in known if seen >= _MIN_JUDGED]

    def depart(self, replica: Replica) -> None:
        """Note that a replica left."""
        if replica.pool in self._reservoirs:
            self._reservoirs[replica.pool].depart(replica.name)
        self._curves = None

    def curves_changed(self) -> None:
        """Note that a replica came, or brought another curve."""
        self._curves = None

    def acceptance(self) -> Mapping[PoolName, Acceptance]:
        """Return each pool's acceptance."""
        for pool, reservoir in self._reservoirs.items():
            known = self._acceptance.get(pool)
            if known is None or known[0] != reservoir.added:
                self._acceptance[pool] = (reservoir.added, pool_survivals(reservoir.vectors()))
        return {pool: pooled for pool, (_, pooled) in self._acceptance.items()}

    def survival_by_position(self, pool: PoolName) -> list[float]:
        """Return a pool's mean survivals a_1 .. a_gamma; empty while nothing is known."""
        reservoir = self._reservoirs.get(pool)
        vectors = [] if reservoir is None else reservoir.vectors()
        longest = max((len(vector) for vector in vectors), default=0)
        reached = [[v[k] for v in vectors if k < len(v)] for k in range(longest)]
        return [fmean(values) for values in reached]

    def curves(self, replicas: Sequence[Replica]) -> Mapping[BudgetKey, Curve]:
        """Return each class's curve: the median of what its first replicas measured.

        A class whose replicas are all gone keeps its last one.
        """
        if self._curves is None:
            measured: defaultdict[BudgetKey, list[Curve]] = defaultdict(list)
            for replica in replicas:
                if replica.curve is not None:
                    measured[replica.pool, replica.curve.version].append(replica.curve)
            self.remember(
                {key: _median(curves[:_CURVES_POOLED]) for key, curves in measured.items()}
            )
            self._curves = dict(self._remembered)
        return self._curves

    def remember(self, curves: Mapping[BudgetKey, Curve]) -> None:
        """Know these classes' curves from now on; the oldest are forgotten for them."""
        for key, curve in curves.items():
            self._remembered.pop(key, None)
            self._remembered[key] = curve
        while len(self._remembered) > MAX_CURVES:
            del self._remembered[next(iter(self._remembered))]


def _median(curves: list[Curve]) -> Curve:
    """Pool several replicas' measurements; a single or an unusable curve stays as it is."""
    usable = [curve for curve in curves if curve_problem(curve) is None]
    if len(usable) < 2:
        return (usable or curves)[0]
    points = [point for curve in usable for point in curve.points]
    return make_curve(usable[0].version, usable[0].device, points)
