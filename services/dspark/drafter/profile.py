"""Profiles a drafter: what a batch costs, over sessions."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from dspark.config.model import ModelSettings
from dspark.core.curve import Curve, CurvePoint, make_curve
from dspark.core.draft import DraftRequest
from dspark.core.sampling import Sampling
from dspark.drafter.engine import BlockModel
from dspark.model.curve_cache import cached_curve
from dspark.model.pair import PairIdentity
from dspark.model.serving import curve_version, device_name

SESSIONS = (1, 2, 4, 8, 16, 32)
CONTEXT_TOKENS = 128


def profile(
    model: BlockModel,
    *,
    row_size: int,
    max_sessions: int,
    version: str,
    device: str,
    clock: Callable[[], float],
    repeats: int = 5,
    sessions: Sequence[int] = SESSIONS,
    context_tokens: int = CONTEXT_TOKENS,
) -> Curve:
    """Measure the median time of a full-block batch of each size; must run before serving.

    Sampled, not greedy: the dearer of the two, so that a budget never counts on too fast a
    drafter.

    Args:
        model: The drafter, without sessions.
        row_size: Width of a context row.
        max_sessions: Largest batch that is served.
        version: Of the curve.
        device: For people.
        clock: Seconds.
        repeats: Runs of each size.
        sessions: Batch sizes.
        context_tokens: Rows cached for each session.

    Returns:
        Points (sessions, sessions * gamma tokens).
    """
    rows = np.zeros((context_tokens, row_size), dtype=np.float32)
    keys: list[Hashable] = []
    samples = []
    for count in (size for size in sessions if size <= max_sessions):
        while len(keys) < count:
            fresh: Hashable = ("profile", len(keys))
            model.open(fresh, Sampling(temperature=1.0, seed=len(keys)))
            model.append(fresh, 0, rows)
            keys.append(fresh)
        requests = [
            DraftRequest(key=key, anchor=1, base_length=context_tokens, max_tokens=model.gamma)
            for key in keys
        ]
        model.draft(requests)  # warm up: the first batch of a size allocates
        for _ in range(repeats):
            began_s = clock()
            model.draft(requests)
            samples.append(
                CurvePoint(
                    context_tokens=context_tokens,
                    sessions=count,
                    batch_tokens=count * model.gamma,
                    step_s=clock() - began_s,
                )
            )
    for key in keys:
        model.close(key)
    return make_curve(version, device, samples)


def profile_served(
    drafter: BlockModel,
    model: ModelSettings,
    *,
    identity: PairIdentity,
    max_sessions: int,
    clock: Callable[[], float],
) -> Curve:
    """Profile a drafter as a replica serves it.

    Args:
        drafter: The drafter, without sessions.
        model: What it is and where it runs.
        identity: Of the pair.
        max_sessions: Largest batch.
        clock: Seconds.
    """
    version = curve_version(model, identity.projection_id)
    return cached_curve(
        model.curves,
        kind="drafter",
        version=version,
        sizes=f"{max_sessions} sessions",
        measure=lambda: profile(
            drafter,
            row_size=identity.hidden_size,
            max_sessions=max_sessions,
            version=version,
            device=device_name(model),
            clock=clock,
        ),
    )
