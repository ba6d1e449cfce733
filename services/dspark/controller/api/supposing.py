"""Supposing: what a pool would do under another policy, with other replicas or sessions."""

from collections.abc import Mapping, Sequence

from dspark.controller.api.answers import Outlook, Outlooks
from dspark.controller.api.asks import WhatIf
from dspark.controller.api.view import entry_shape
from dspark.controller.loop import Controller
from dspark.core.bounds import bound_table
from dspark.core.budget import ContextBucket
from dspark.core.changes import policy_of
from dspark.core.fleet import ReplicaState
from dspark.core.ids import PoolName
from dspark.core.issue import Evidence, plan_table
from dspark.core.policy import Policy
from dspark.core.prediction import predict

MAX_SESSIONS_PER_REPLICA = 4096
"""More than any table reaches: what lies far beyond the measured curve is not predicted."""


class Unpredictable(ValueError):
    """Nothing is known to predict from."""


def suppose(controller: Controller, pool: PoolName, what: WhatIf, *, unix_s: float) -> Outlooks:
    """Predict the pool now and as supposed, from curves and recorded statistics.

    Raises:
        Unpredictable: No curve can be trusted, no round is known, or no replica is ready.
        ValueError: More sessions than can be predicted.
    """
    classes = {
        key[1]: evidence for key, evidence in controller.plan.evidence.items() if key[0] == pool
    }
    ready = {version: _ready(evidence) for version, evidence in classes.items()}
    replicas = sum(ready.values())
    if not replicas:
        raise Unpredictable(f"no replica of {pool} is ready")
    active = sum(
        member.load.active_sessions
        for evidence in classes.values()
        for member in evidence.members
        if member.load is not None
    )
    sessions, current = (
        what.sessions or max(active, 1),
        policy_of(controller.policies.layers(pool, unix_s)),
    )
    now = _outlook(controller, classes, ready, current, replicas, max(active, 1))
    supposed = _outlook(
        controller,
        classes,
        ready,
        current if what.policy is None else what.policy.policy(),
        what.replicas or replicas,
        sessions,
    )
    return Outlooks(now=now, supposed=supposed, gain=supposed.tokens_per_s / now.tokens_per_s - 1)


def _outlook(
    controller: Controller,
    classes: Mapping[str, Evidence],
    ready: Mapping[str, int],
    policy: Policy,
    replicas: int,
    sessions: int,
) -> Outlook:
    """Spread sessions evenly over replicas, whose kinds keep their shares."""
    busy = min(replicas, sessions)
    each = max(round(sessions / busy), 1)
    if each > MAX_SESSIONS_PER_REPLICA:
        raise ValueError(
            f"{each} sessions on a replica: at most {MAX_SESSIONS_PER_REPLICA} are predicted"
        )
    tokens_per_s, length, entries = 0.0, 0.0, []
    for version, evidence in classes.items():
        share = ready[version] / sum(ready.values())
        if not share:
            continue
        found = predict(
            evidence,
            _table(controller, evidence, policy),
            controller.plan_settings,
            sessions=each,
            context_tokens=evidence.context_tokens(),
        )
        if found is None:
            known = 0 if evidence.acceptance is None else evidence.acceptance.num_vectors
            problem = evidence.curve_problem() or "usable"
            raise Unpredictable(f"{known} committed rounds are known, and the curve is {problem}")
        # Rounding the sessions of a replica must not make or lose any.
        tokens_per_s += share * found.tokens_per_s_per_user * sessions
        length += share * found.accepted_length
        entries.append(entry_shape(found.entry))
    return Outlook(
        replicas=replicas,
        sessions=sessions,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_user=tokens_per_s / sessions,
        accepted_length=length,
        verified_tokens_per_step=entries,
    )


def _table(controller: Controller, evidence: Evidence, policy: Policy) -> Sequence[ContextBucket]:
    return bound_table(plan_table(evidence, controller.plan_settings, policy)[0], policy)


def _ready(evidence: Evidence) -> int:
    return sum(member.replica.state is ReplicaState.READY for member in evidence.members)
