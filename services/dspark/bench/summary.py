"""Summaries: medians with spread over the repeats, and ratios within each of them.  Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from dspark.bench.arms import ADAPTIVE, OFF, Arm
from dspark.bench.loads import Load
from dspark.bench.measures import Measures, count_differing, measure
from dspark.bench.record import CellRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number over the repeats."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the range, as a share of the median."""
        return (self.high - self.low) / (2 * self.median) if self.median else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One arm under one load over all repeats that ended.

    Attributes:
        arm: The arm.
        load: The load.
        repeats: One entry for each.
        ratio_to_off: Throughput over that of "off", by repeat; None without that arm.
        user_ratio_to_off: The same of a user's speed.
        ratio_to_best_fixed: Throughput of "adaptive" over that of the fixed arm with the best
            median; None for the other arms.
        best_fixed: Which one that is.
        compared: Outputs held against those of "off".
        differing: Of them, different: a fault of the server, never of the load.
    """

    arm: Arm
    load: Load
    repeats: tuple[Measures, ...]
    ratio_to_off: Figure | None
    user_ratio_to_off: Figure | None
    ratio_to_best_fixed: Figure | None
    best_fixed: str | None
    compared: int
    differing: int

    def figure(self, value: Callable[[Measures], float | None]) -> Figure | None:
        """Return one number over the repeats that have it."""
        return _figure([value(measures) for measures in self.repeats])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """One cell, measured."""

    record: CellRecord
    measures: Measures


_Turns = Mapping[tuple[str, Load], Mapping[int, _Turn]]
"""By (arm, load), then by repeat."""


def summarise(records: Sequence[CellRecord]) -> tuple[Summary, ...]:
    """Return a summary of every (load, arm) that has a cell, in the order of their first cells."""
    turns: dict[tuple[str, Load], dict[int, _Turn]] = {}
    arms: dict[str, Arm] = {}
    for record in records:
        cell = record.cell
        arms[cell.arm.name] = cell.arm
        turns.setdefault((cell.arm.name, cell.load), {})[cell.repeat] = _Turn(
            record=record, measures=measure(record)
        )
    loads = list(dict.fromkeys(load for _, load in turns))
    return tuple(
        _summary(arm, load, turns)
        for load in loads
        for arm in arms.values()
        if (arm.name, load) in turns
    )


def _summary(arm: Arm, load: Load, turns: _Turns) -> Summary:
    mine = turns[arm.name, load]
    off = turns.get((OFF, load), {})
    # The off arm held against itself says nothing.
    pairs = [] if arm.name == OFF else [(mine[r], off[r]) for r in mine if r in off]
    best_fixed = _best_fixed(arm, load, turns) if arm.kind == ADAPTIVE else None
    return Summary(
        arm=arm,
        load=load,
        repeats=tuple(turn.measures for turn in mine.values()),
        ratio_to_off=_ratio(mine, off, lambda m: m.tokens_per_s),
        user_ratio_to_off=_ratio(mine, off, lambda m: m.user_tokens_per_s),
        ratio_to_best_fixed=None
        if best_fixed is None
        else _ratio(mine, turns[best_fixed, load], lambda m: m.tokens_per_s),
        best_fixed=best_fixed,
        compared=sum(len(one.record.served) for one, _ in pairs),
        differing=sum(count_differing(one.record, other.record) for one, other in pairs),
    )


def _best_fixed(adaptive: Arm, load: Load, turns: _Turns) -> str | None:
    medians = {}
    for (name, own_load), repeats in turns.items():
        arm = next(iter(repeats.values())).record.cell.arm
        fixed = arm.fixed and arm.place == adaptive.place
        figure = _figure([turn.measures.tokens_per_s for turn in repeats.values()])
        if own_load == load and fixed and figure is not None:
            medians[name] = figure.median
    return max(medians, key=lambda name: medians[name]) if medians else None


def _ratio(
    mine: Mapping[int, _Turn],
    other: Mapping[int, _Turn],
    value: Callable[[Measures], float | None],
) -> Figure | None:
    ratios = []
    for repeat in mine:
        if repeat in other:
            above, below = value(mine[repeat].measures), value(other[repeat].measures)
            if above is not None and below:
                ratios.append(above / below)
    return _figure(ratios)


def _figure(values: Sequence[float | None]) -> Figure | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Figure(median=median(known), low=min(known), high=max(known))
