"""Supposing: what a pool would do under another policy, with other replicas or sessions."""

from collections.abc import Mapping, Sequence

from dspark.controller.api.answers import Outlook, Outlooks
from dspark.controller.api.asks import WhatIf
from dspark.controller.api.view import entry_shape
from dspark.controller.loop import Controller
from dspark.core.bounds import bound_table
from dspark.core.budget import ContextBucket
from dspark.core.canary import num_canaries
from dspark.core.changes import canary_of, policy_of
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
    layers = controller.policies.layers(pool, unix_s)

    def outlook(asked: Policy | None, replicas: int, sessions: int) -> Outlook:
        base = policy_of(layers)
        if asked is not None and asked.canary_share is None:
            base, asked = asked, None
        whole = _outlook(controller, classes, ready, base, replicas, sessions)
        canaries = 0 if asked is None else num_canaries(replicas, asked.canary_share or 0.0)
        if asked is None or not canaries:
            return whole
        tried = _outlook(controller, classes, ready, asked, replicas, sessions)
        return _mixed(whole, tried, canaries / replicas)

    now = outlook(canary_of(layers), replicas, max(active, 1))
    supposed = outlook(
        canary_of(layers) if what.policy is None else what.policy.policy(),
        what.replicas or replicas,
        what.sessions or max(active, 1),
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
    each_per_s, promised = tokens_per_s / sessions, policy.min_tokens_per_s
    return Outlook(
        replicas=replicas,
        sessions=sessions,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_user=each_per_s,
        accepted_length=length,
        verified_tokens_per_step=entries,
        promise_kept=None if promised is None else each_per_s >= promised,
    )


def _mixed(base: Outlook, canary: Outlook, share: float) -> Outlook:
    """Return what a pool does of which a share tries another policy out."""

    def mean(one: float, other: float) -> float:
        return (1 - share) * one + share * other

    return base.model_copy(
        update={
            "tokens_per_s": mean(base.tokens_per_s, canary.tokens_per_s),
            "tokens_per_s_per_user": mean(base.tokens_per_s_per_user, canary.tokens_per_s_per_user),
            "accepted_length": mean(base.accepted_length, canary.accepted_length),
            "verified_tokens_per_step": [
                *base.verified_tokens_per_step, *canary.verified_tokens_per_step,
            ],
            "promise_kept": canary.promise_kept,
        }
    )  # fmt: skip


def _table(controller: Controller, evidence: Evidence, policy: Policy) -> Sequence[ContextBucket]:
    return bound_table(plan_table(evidence, controller.plan_settings, policy)[0], policy)


def _ready(evidence: Evidence) -> int:
    return sum(member.replica.state is ReplicaState.READY for member in evidence.members)
