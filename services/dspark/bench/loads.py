"""Loads: how hard the server is driven, in a closed loop or an open one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_USERS = "1,2,4,8"

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How hard the server is driven.

    Attributes:
        concurrency: Closed loop: users, each of whom asks again as soon as it is answered.
            Open loop: most requests in flight.
        rate_per_s: Open loop: requests arrive at this rate (Poisson); None for a closed loop.
    """

    concurrency: int
    rate_per_s: float | None = None

    @property
    def label(self) -> str:
        """For people."""
        return str(self.concurrency) if self.rate_per_s is None else f"{self.rate_per_s:g}/s"


def parse_loads(
    concurrency: str | None, rate: str | None, *, max_in_flight: int, engine: bool
) -> tuple[Load, ...]:
    """Read the loads of a run: comma-separated users, or arrivals a second.

    Raises:
        ValueError: A number is none, or the options exclude each other.
    """
    if rate is not None:
        if concurrency is not None or engine:
            raise ValueError("--rate is an open loop: leave out --concurrency and --engine")
        rates = _numbers(rate, float, "--rate")
        return tuple(Load(concurrency=max_in_flight, rate_per_s=value) for value in rates)
    users = _numbers(concurrency or ("1" if engine else _USERS), int, "--concurrency")
    return tuple(Load(concurrency=count) for count in users)


def _numbers(text: str, kind: Callable[[str], Number], option: str) -> list[Number]:
    try:
        values = [kind(word) for word in text.split(",")]
    except ValueError:
        values = []
    usable = all(value > 0 and math.isfinite(value) for value in values)
    if not values or not usable or len(set(values)) < len(values):
        raise ValueError(f"{option} {text!r} is no list of different numbers above 0")
    return values
