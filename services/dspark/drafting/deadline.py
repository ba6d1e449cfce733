"""How long a draft is worth waiting for."""

from collections.abc import Callable

_WEIGHT = 0.1


class Deadline:
    """max(floor, factor x smoothed round trip): never a function of what was drafted."""

    def __init__(
        self,
        *,
        floor_s: float,
        factor: float,
        observed: Callable[[float], object] = lambda _: None,
    ) -> None:
        self._floor_s = floor_s
        self._factor = factor
        self._observed = observed
        self.round_trip_s = 0.0
        """Exponentially smoothed seconds from request to answer; 0 before the first."""

    def observe(self, seconds: float) -> None:
        """Fold in one round trip, late ones too (or a slow drafter would stay late for ever)."""
        self._observed(seconds)
        if self.round_trip_s == 0.0:
            self.round_trip_s = seconds
        else:
            self.round_trip_s += _WEIGHT * (seconds - self.round_trip_s)

    @property
    def seconds(self) -> float:
        """Seconds to wait from the request on."""
        return max(self._floor_s, self._factor * self.round_trip_s)
