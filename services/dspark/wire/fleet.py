"""Replicas, load reports and the fleet <-> wire."""

from collections.abc import Callable

from dspark.core.curve import Curve, CurvePoint
from dspark.core.fleet import (
    Compatibility,
    Fleet,
    LoadReport,
    Member,
    Pool,
    Replica,
    ReplicaState,
    Role,
)
from dspark.core.ids import Epoch, Incarnation, PoolName, ReplicaName, Term
from dspark.core.refinement import StepCell
from dspark.wire.budget import budget_from_wire, budget_to_wire
from dspark.wire.tensor import element_name, element_type
from dspark.wire.v1 import common_pb2, control_pb2

_ROLE_TO_WIRE = {
    Role.PREFILL: common_pb2.ROLE_PREFILL,
    Role.DRAFTER: common_pb2.ROLE_DRAFTER,
    Role.VERIFIER: common_pb2.ROLE_VERIFIER,
    Role.GATEWAY: common_pb2.ROLE_GATEWAY,
    Role.CONTROLLER: common_pb2.ROLE_CONTROLLER,
}
_ROLE_FROM_WIRE = {wire: role for role, wire in _ROLE_TO_WIRE.items()}
_STATE_TO_WIRE = {
    ReplicaState.STARTING: control_pb2.REPLICA_STATE_STARTING,
    ReplicaState.READY: control_pb2.REPLICA_STATE_READY,
    ReplicaState.DRAINING: control_pb2.REPLICA_STATE_DRAINING,
}
_STATE_FROM_WIRE = {wire: state for state, wire in _STATE_TO_WIRE.items()}


def role_from_wire(role: "common_pb2.Role.ValueType") -> Role:
    """Convert; raise ValueError on an unknown role."""
    if role not in _ROLE_FROM_WIRE:
        raise ValueError(f"unknown role {role} on the wire")
    return _ROLE_FROM_WIRE[role]


def state_from_wire(state: "control_pb2.ReplicaState.ValueType") -> ReplicaState:
    """Convert; raise ValueError on an unknown state."""
    if state not in _STATE_FROM_WIRE:
        raise ValueError(f"unknown replica state {state} on the wire")
    return _STATE_FROM_WIRE[state]


def compatibility_to_wire(value: Compatibility) -> common_pb2.Compatibility:
    """Convert for sending."""
    return common_pb2.Compatibility(
        protocol_version=value.protocol_version,
        model=value.model,
        target_digest=value.target_digest,
        tokenizer_digest=value.tokenizer_digest,
        vocab_size=value.vocab_size,
        block_size=value.block_size,
        target_layer_ids=value.target_layer_ids,
        projection_id=value.projection_id,
        kv_dtype=element_type(value.kv_dtype),
        page_tokens=value.page_tokens,
        rows_dtype=element_type(value.rows_dtype),
    )


def compatibility_from_wire(message: common_pb2.Compatibility) -> Compatibility:
    """Convert."""
    return Compatibility(
        protocol_version=message.protocol_version,
        model=message.model,
        target_digest=message.target_digest,
        tokenizer_digest=message.tokenizer_digest,
        vocab_size=message.vocab_size,
        block_size=message.block_size,
        target_layer_ids=tuple(message.target_layer_ids),
        projection_id=message.projection_id,
        kv_dtype=element_name(message.kv_dtype),
        page_tokens=message.page_tokens,
        rows_dtype=element_name(message.rows_dtype),
    )


def curve_to_wire(curve: Curve) -> control_pb2.Curve:
    """Convert for sending."""
    return control_pb2.Curve(
        version=curve.version,
        device=curve.device,
        points=[
            control_pb2.Curve.Point(
                context_tokens=point.context_tokens,
                sessions=point.sessions,
                batch_tokens=point.batch_tokens,
                step_seconds=point.step_s,
            )
            for point in curve.points
        ],
    )


def curve_from_wire(message: control_pb2.Curve) -> Curve:
    """Convert."""
    return Curve(
        version=message.version,
        device=message.device,
        points=tuple(
            CurvePoint(
                context_tokens=point.context_tokens,
                sessions=point.sessions,
                batch_tokens=point.batch_tokens,
                step_s=point.step_seconds,
            )
            for point in message.points
        ),
    )


def replica_to_wire(replica: Replica) -> control_pb2.Replica:
    """Convert for sending."""
    return control_pb2.Replica(
        name=replica.name,
        pool=replica.pool,
        role=_ROLE_TO_WIRE[replica.role],
        address=replica.address,
        incarnation=replica.incarnation,
        state=_STATE_TO_WIRE[replica.state],
        compatibility=compatibility_to_wire(replica.compatibility),
        curve=None if replica.curve is None else curve_to_wire(replica.curve),
        metrics_address=replica.metrics_address,
        pid=replica.pid,
        node=replica.node,
    )


def replica_from_wire(message: control_pb2.Replica) -> Replica:
    """Convert; raise ValueError on an unknown role or state."""
    return Replica(
        name=ReplicaName(message.name),
        pool=PoolName(message.pool),
        role=role_from_wire(message.role),
        address=message.address,
        incarnation=Incarnation(message.incarnation),
        state=state_from_wire(message.state),
        compatibility=compatibility_from_wire(message.compatibility),
        curve=curve_from_wire(message.curve) if message.HasField("curve") else None,
        metrics_address=message.metrics_address,
        pid=message.pid,
        node=message.node,
    )


def load_report_to_wire(report: LoadReport) -> control_pb2.LoadReport:
    """Convert for sending."""
    return control_pb2.LoadReport(
        replica=report.replica,
        incarnation=report.incarnation,
        state=_STATE_TO_WIRE[report.state],
        window_seconds=report.window_s,
        active_sessions=report.active_sessions,
        waiting_sessions=report.waiting_sessions,
        free_pages=report.free_pages,
        total_pages=report.total_pages,
        busy_share=report.busy_share,
        steps=report.steps,
        batch_tokens=report.batch_tokens,
        committed_tokens=report.committed_tokens,
        drafted_steps=report.drafted_steps,
        accepted_draft_tokens=report.accepted_draft_tokens,
        verified_draft_tokens=report.verified_draft_tokens,
        step_seconds=report.step_s,
        survivals=[control_pb2.SurvivalSample(survival=vector) for vector in report.survivals],
        budget_epoch=report.budget_epoch or 0,
        budget_term=report.budget_term or 0,
        draft_outcomes=report.draft_outcomes,
        wire_bytes=report.wire_bytes,
        prompt_tokens=report.prompt_tokens,
        mean_context_tokens=report.mean_context_tokens,
        draft_round_seconds=report.draft_round_s,
        connected_drafters=report.connected_drafters,
        step_cells=[
            control_pb2.StepCell(
                sessions=cell.sessions,
                batch_tokens=cell.batch_tokens,
                steps=cell.steps,
                ratio=cell.ratio,
            )
            for cell in report.step_cells
        ],
        turn_seconds=report.turn_s,
        schedule_seconds=report.schedule_s,
        guard_checks=report.guard_checks,
        guard_violations=report.guard_violations,
        guard_tripped=report.guard_tripped,
        judged_by_position=report.judged_by_position,
        accepted_by_position=report.accepted_by_position,
        confidence_by_position=report.confidence_by_position,
        session_steps=report.session_steps,
        queued_prompt_tokens=report.queued_prompt_tokens,
        queue_seconds=report.queue_s,
    )


def load_report_from_wire(message: control_pb2.LoadReport) -> LoadReport:
    """Convert; raise ValueError on an unknown state."""
    return LoadReport(
        replica=ReplicaName(message.replica),
        incarnation=Incarnation(message.incarnation),
        state=state_from_wire(message.state),
        window_s=message.window_seconds,
        active_sessions=message.active_sessions,
        waiting_sessions=message.waiting_sessions,
        free_pages=message.free_pages,
        total_pages=message.total_pages,
        busy_share=message.busy_share,
        steps=message.steps,
        batch_tokens=message.batch_tokens,
        committed_tokens=message.committed_tokens,
        drafted_steps=message.drafted_steps,
        accepted_draft_tokens=message.accepted_draft_tokens,
        verified_draft_tokens=message.verified_draft_tokens,
        step_s=message.step_seconds,
        survivals=tuple(tuple(sample.survival) for sample in message.survivals),
        budget_epoch=Epoch(message.budget_epoch) if message.budget_epoch else None,
        budget_term=Term(message.budget_term) if message.budget_term else None,
        draft_outcomes=dict(message.draft_outcomes),
        wire_bytes=dict(message.wire_bytes),
        prompt_tokens=message.prompt_tokens,
        mean_context_tokens=message.mean_context_tokens,
        draft_round_s=message.draft_round_seconds,
        connected_drafters=message.connected_drafters,
        step_cells=tuple(
            StepCell(
                sessions=cell.sessions,
                batch_tokens=cell.batch_tokens,
                steps=cell.steps,
                ratio=cell.ratio,
            )
            for cell in message.step_cells
        ),
        turn_s=message.turn_seconds,
        schedule_s=message.schedule_seconds,
        guard_checks=message.guard_checks,
        guard_violations=message.guard_violations,
        guard_tripped=message.guard_tripped,
        judged_by_position=tuple(message.judged_by_position),
        accepted_by_position=tuple(message.accepted_by_position),
        confidence_by_position=tuple(message.confidence_by_position),
        session_steps=message.session_steps,
        queued_prompt_tokens=message.queued_prompt_tokens,
        queue_s=message.queue_seconds,
    )


def fleet_to_wire(
    fleet: Fleet,
    *,
    replica: Callable[[Replica], control_pb2.Replica] = replica_to_wire,
    load: Callable[[LoadReport], control_pb2.LoadReport] = load_report_to_wire,
) -> control_pb2.Fleet:
    """Convert for sending.

    Args:
        fleet: To convert.
        replica: How a replica is converted.
        load: How a report is converted.
    """
    return control_pb2.Fleet(
        term=fleet.term,
        version=fleet.version,
        members=[
            control_pb2.Fleet.Member(
                replica=replica(member.replica),
                load=None if member.load is None else load(member.load),
                seconds_since_report=member.seconds_since_report,
            )
            for member in fleet.members
        ],
        pools=[
            control_pb2.Fleet.Pool(
                name=pool.name,
                role=_ROLE_TO_WIRE[pool.role],
                wanted_replicas=pool.wanted_replicas,
                ready_replicas=pool.ready_replicas,
                budget=None if pool.budget is None else budget_to_wire(pool.budget),
                conditions=pool.conditions,
                wanted_because=pool.wanted_because,
            )
            for pool in fleet.pools
        ],
    )


def fleet_from_wire(message: control_pb2.Fleet) -> Fleet:
    """Convert; raise ValueError on an unknown role or state."""
    return Fleet(
        term=Term(message.term),
        version=message.version,
        members=tuple(
            Member(
                replica=replica_from_wire(member.replica),
                load=load_report_from_wire(member.load) if member.HasField("load") else None,
                seconds_since_report=member.seconds_since_report,
            )
            for member in message.members
        ),
        pools=tuple(
            Pool(
                name=PoolName(pool.name),
                role=role_from_wire(pool.role),
                wanted_replicas=pool.wanted_replicas,
                ready_replicas=pool.ready_replicas,
                budget=budget_from_wire(pool.budget) if pool.HasField("budget") else None,
                conditions=tuple(pool.conditions),
                wanted_because=pool.wanted_because,
            )
            for pool in message.pools
        ),
    )
