"""Rounds, replies and draft blocks <-> wire."""

import numpy as np

from dspark.core.draft import (
    DraftBlock,
    DraftStatus,
    JudgedDraft,
    Round,
    RoundReply,
    SessionRound,
)
from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, SessionId
from dspark.wire.sampling import sampling_from_wire, sampling_to_wire
from dspark.wire.tensor import tensor_from_wire, tensor_to_wire
from dspark.wire.v1 import draft_pb2, verify_pb2

_STATUS_TO_WIRE = {
    DraftStatus.OK: draft_pb2.DRAFT_STATUS_OK,
    DraftStatus.NOT_SEEDED: draft_pb2.DRAFT_STATUS_NOT_SEEDED,
    DraftStatus.FULL: draft_pb2.DRAFT_STATUS_FULL,
}
_STATUS_FROM_WIRE = {wire: status for status, wire in _STATUS_TO_WIRE.items()}


def status_to_wire(status: DraftStatus) -> "draft_pb2.DraftStatus.ValueType":
    """Convert for sending."""
    return _STATUS_TO_WIRE[status]


def status_from_wire(status: "draft_pb2.DraftStatus.ValueType") -> DraftStatus:
    """Convert; raise ValueError on a status that this version does not know."""
    if status not in _STATUS_FROM_WIRE:
        raise ValueError(f"unknown draft status {status} on the wire")
    return _STATUS_FROM_WIRE[status]


def round_to_wire(round_: Round) -> draft_pb2.RoundRequest:
    """Convert for sending."""
    return draft_pb2.RoundRequest(
        round=round_.number,
        sessions=[
            draft_pb2.SessionRound(
                session=part.session,
                base_length=part.base_length,
                anchor=part.anchor,
                rows_start=part.rows_start,
                rows=tensor_to_wire(part.rows),
                max_tokens=part.max_tokens,
                opens=None if part.opens is None else sampling_to_wire(part.opens),
            )
            for part in round_.sessions
        ],
        released=round_.released,
    )


def round_from_wire(message: draft_pb2.RoundRequest) -> Round:
    """Convert; raise ValueError on a malformed tensor or sampling."""
    return Round(
        number=message.round,
        sessions=tuple(
            SessionRound(
                session=SessionId(part.session),
                base_length=part.base_length,
                anchor=part.anchor,
                rows_start=part.rows_start,
                rows=tensor_from_wire(part.rows),
                max_tokens=part.max_tokens,
                opens=sampling_from_wire(part.opens) if part.HasField("opens") else None,
            )
            for part in message.sessions
        ),
        released=tuple(SessionId(session) for session in message.released),
    )


def reply_to_wire(reply: RoundReply) -> draft_pb2.RoundResponse:
    """Convert for sending."""
    return draft_pb2.RoundResponse(
        round=reply.number,
        incarnation=reply.incarnation,
        blocks=[
            draft_pb2.DraftBlock(
                session=block.session,
                base_length=block.base_length,
                status=_STATUS_TO_WIRE[block.status],
                tokens=block.tokens,
                confidences=block.confidences,
                laws=None if block.laws is None else _laws_to_wire(block.laws),
            )
            for block in reply.blocks
        ],
        draft_seconds=reply.draft_s,
        queue_seconds=reply.queue_s,
        draining=reply.draining,
    )


def reply_from_wire(message: draft_pb2.RoundResponse) -> RoundReply:
    """Convert; raise ValueError on an unknown status, unequal lengths or malformed laws."""
    return RoundReply(
        number=message.round,
        incarnation=Incarnation(message.incarnation),
        blocks=tuple(
            DraftBlock(
                session=SessionId(block.session),
                base_length=block.base_length,
                status=status_from_wire(block.status),
                tokens=tuple(block.tokens),
                confidences=tuple(block.confidences),
                laws=_laws_from_wire(block.laws) if block.HasField("laws") else None,
            )
            for block in message.blocks
        ),
        draft_s=message.draft_seconds,
        queue_s=message.queue_seconds,
        draining=message.draining,
    )


def _laws_to_wire(laws: DraftLaws) -> draft_pb2.DraftLaws:
    return draft_pb2.DraftLaws(
        counts=laws.counts, ids=laws.ids.tolist(), weights=tensor_to_wire(laws.weights)
    )


def _laws_from_wire(message: draft_pb2.DraftLaws) -> DraftLaws:
    return DraftLaws(
        counts=tuple(message.counts),
        ids=np.array(message.ids, dtype=np.int64),
        weights=tensor_from_wire(message.weights),  # type: ignore[arg-type]  # DraftLaws checks
    )


def judged_to_wire(draft: JudgedDraft) -> verify_pb2.JudgedDraft:
    """Convert for sending."""
    return verify_pb2.JudgedDraft(
        token_ids=draft.tokens,
        confidences=draft.confidences,
        verified_tokens=draft.verified,
        accepted_tokens=draft.accepted,
    )


def judged_from_wire(message: verify_pb2.JudgedDraft) -> JudgedDraft:
    """Convert; raise ValueError where tokens and confidences do not belong together."""
    if len(message.token_ids) != len(message.confidences):
        raise ValueError(
            f"{len(message.token_ids)} draft tokens with {len(message.confidences)} confidences"
        )
    return JudgedDraft(
        tokens=tuple(message.token_ids),
        confidences=tuple(message.confidences),
        verified=message.verified_tokens,
        accepted=message.accepted_tokens,
    )
