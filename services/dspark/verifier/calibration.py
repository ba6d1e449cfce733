"""The online calibration error, as a metric: what ``core.observed`` makes of served rounds."""

from collections.abc import Iterable

from dspark.core.observed import Observation, Observed
from dspark.core.sampling import Sampling
from dspark.telemetry import metrics


def mode_of(sampling: Sampling) -> str:
    """The sampling mode that confidences are calibrated for."""
    return "greedy" if sampling.greedy else sampling.mode.value


class CalibrationGauge:
    """Rounds by sampling mode in, one gauge a position out."""

    def __init__(self, *, pool: str, gamma: int) -> None:
        self._pool = pool
        self._gamma = gamma
        self._observed: dict[str, Observed] = {}

    def update(self, rounds: Iterable[tuple[str, Observation]]) -> None:
        """Fold in rounds, each with its mode, and show the errors that are known."""
        by_mode: dict[str, list[Observation]] = {}
        for mode, observation in rounds:
            by_mode.setdefault(mode, []).append(observation)
        for mode, observations in by_mode.items():
            observed = self._observed.setdefault(mode, Observed(self._gamma))
            observed.add(observations)
            for position, error in enumerate(observed.errors()):
                if error is not None:
                    metrics.CALIBRATION_ERROR.labels(self._pool, mode, str(position)).set(error)
