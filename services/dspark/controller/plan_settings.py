"""Plan settings: the controller's configuration as the planner reads it."""

from dspark.config.controller import ControllerSettings
from dspark.core.ids import PoolName
from dspark.core.need import Scaling
from dspark.core.policy import PlanSettings, Rules

_RENEW_SHARE = 0.3  # of a budget's life: a lost renewal or two do no harm


def plan_settings(settings: ControllerSettings) -> PlanSettings:
    """Return how to plan."""
    return PlanSettings(
        ttl_s=settings.budget_ttl_s,
        renew_s=settings.budget_ttl_s * _RENEW_SHARE,
        dwell_s=settings.dwell_s,
        min_samples=settings.min_samples,
        max_sessions=settings.max_sessions,
        max_cohorts=settings.max_cohorts,
        rules=Rules(activation_sessions=settings.activation_sessions, off_gain=settings.off_gain),
    )


def scaling_settings(settings: ControllerSettings) -> dict[PoolName, Scaling]:
    """Return how pools follow their load, by pool."""
    return {PoolName(pool): Scaling(**own.model_dump()) for pool, own in settings.scaling.items()}
