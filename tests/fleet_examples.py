"""A small fleet that speaks integers: replicas, reports and curves for tests."""

from collections.abc import Sequence

from dspark.core.curve import Curve, CurvePoint, make_curve
from dspark.core.fleet import Compatibility, LoadReport, Member, Replica, ReplicaState, Role
from dspark.core.ids import Incarnation, PoolName, ReplicaName

COMPATIBILITY = Compatibility(
    protocol_version=1,
    model="toy",
    target_digest="target",
    tokenizer_digest="tokenizer",
    vocab_size=16,
    block_size=3,
    target_layer_ids=(1, 2),
    projection_id="projection",
    kv_dtype="float32",
    page_tokens=4,
    rows_dtype="float16",
)


def a_replica(
    name: str,
    role: Role = Role.VERIFIER,
    *,
    pool: str | None = None,
    incarnation: int = 1,
    state: ReplicaState = ReplicaState.READY,
    compatibility: Compatibility = COMPATIBILITY,
    curve: Curve | None = None,
) -> Replica:
    return Replica(
        name=ReplicaName(name),
        pool=PoolName(pool or role.value),
        role=role,
        address=f"{name}:1",
        incarnation=Incarnation(incarnation),
        state=state,
        compatibility=compatibility,
        curve=curve,
    )


def a_report(
    name: str,
    *,
    incarnation: int = 1,
    state: ReplicaState = ReplicaState.READY,
    active: int = 0,
    waiting: int = 0,
    survivals: Sequence[tuple[float, ...]] = (),
    draft_round_s: float = 0.0,
) -> LoadReport:
    return LoadReport(
        replica=ReplicaName(name),
        incarnation=Incarnation(incarnation),
        state=state,
        window_s=1.0,
        active_sessions=active,
        waiting_sessions=waiting,
        survivals=tuple(survivals),
        draft_round_s=draft_round_s,
    )


def a_member(
    name: str,
    role: Role = Role.VERIFIER,
    *,
    state: ReplicaState = ReplicaState.READY,
    active: int = 0,
    waiting: int = 0,
    draft_round_s: float = 0.0,
    compatibility: Compatibility = COMPATIBILITY,
    curve: Curve | None = None,
) -> Member:
    return Member(
        replica=a_replica(name, role, state=state, compatibility=compatibility, curve=curve),
        load=a_report(name, active=active, waiting=waiting, draft_round_s=draft_round_s),
    )


def a_curve(
    step_s_by_tokens: dict[int, float],
    *,
    version: str = "curve",
    sessions: Sequence[int] = (1, 2, 4),
    context_tokens: Sequence[int] = (64,),
) -> Curve:
    """The same staircase for every session count and context length."""
    return make_curve(
        version,
        "toy",
        [
            CurvePoint(context_tokens=context, sessions=count, batch_tokens=tokens, step_s=seconds)
            for context in context_tokens
            for count in sessions
            for tokens, seconds in step_s_by_tokens.items()
        ],
    )
