"""Rounds, replies and draft blocks <-> wire."""

from itertools import accumulate, chain, pairwise

import numpy as np

from dspark.core.draft import (
    DraftBlock,
    DraftStatus,
    JudgedDraft,
    Round,
    RoundReply,
    Rows,
    SessionRound,
)
from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, SessionId
from dspark.core.sampling import Sampling
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
    """Convert for sending: one column for each field, one tensor for all rows."""
    sessions = round_.sessions
    message = draft_pb2.RoundRequest(
        round=round_.number,
        sessions=[part.session for part in sessions],
        base_lengths=[part.base_length for part in sessions],
        anchors=[part.anchor for part in sessions],
        rows_starts=[part.rows_start for part in sessions],
        num_rows=[len(part.rows) for part in sessions],
        max_tokens=[part.max_tokens for part in sessions],
        openings=[
            draft_pb2.RoundRequest.Opening(index=index, sampling=sampling_to_wire(part.opens))
            for index, part in enumerate(sessions)
            if part.opens is not None
        ],
        released=round_.released,
    )
    if sessions:
        rows = [part.rows for part in sessions]
        message.rows.CopyFrom(tensor_to_wire(rows[0] if len(rows) == 1 else np.concatenate(rows)))
    return message


def round_from_wire(message: draft_pb2.RoundRequest) -> Round:
    """Convert; every session's rows are a view of the message's bytes.

    Raises:
        ValueError: Columns of unequal length, or a malformed tensor or sampling.
    """
    count = len(message.sessions)
    columns = (
        message.base_lengths, message.anchors, message.rows_starts, message.num_rows,
        message.max_tokens,
    )  # fmt: skip
    if any(len(column) != count for column in columns):
        raise ValueError(f"{count} sessions with columns of {[len(each) for each in columns]}")
    opens: list[Sampling | None] = [None] * count
    for opening in message.openings:
        if opening.index >= count:
            raise ValueError(f"an opening of session {opening.index} of {count}")
        opens[opening.index] = sampling_from_wire(opening.sampling)
    rows = _split(message, count)
    return Round(
        number=message.round,
        sessions=tuple(
            map(
                SessionRound,
                map(SessionId, message.sessions),
                message.base_lengths,
                message.anchors,
                message.rows_starts,
                rows,
                message.max_tokens,
                opens,
            )
        ),
        released=tuple(map(SessionId, message.released)),
    )


def _split(message: draft_pb2.RoundRequest, count: int) -> list[Rows]:
    """Return each session's rows [n, hidden]."""
    if count == 0:
        return []
    rows = tensor_from_wire(message.rows)
    stops = list(accumulate(message.num_rows))
    if rows.ndim != 2 or len(rows) != stops[-1]:
        raise ValueError(f"rows of shape {rows.shape} for {stops[-1]} rows of {count} sessions")
    return [rows[start:stop] for start, stop in pairwise((0, *stops))]


def reply_to_wire(reply: RoundReply) -> draft_pb2.RoundResponse:
    """Convert for sending: one column for each field."""
    blocks = reply.blocks
    return draft_pb2.RoundResponse(
        round=reply.number,
        incarnation=reply.incarnation,
        sessions=[block.session for block in blocks],
        base_lengths=[block.base_length for block in blocks],
        statuses=[_STATUS_TO_WIRE[block.status] for block in blocks],
        num_tokens=[len(block.tokens) for block in blocks],
        tokens=list(chain.from_iterable([block.tokens for block in blocks])),
        confidences=list(chain.from_iterable([block.confidences for block in blocks])),
        laws=[
            draft_pb2.RoundResponse.BlockLaws(index=index, laws=_laws_to_wire(block.laws))
            for index, block in enumerate(blocks)
            if block.laws is not None
        ],
        draft_seconds=reply.draft_s,
        queue_seconds=reply.queue_s,
        draining=reply.draining,
    )


def reply_from_wire(message: draft_pb2.RoundResponse) -> RoundReply:
    """Convert; raise ValueError on an unknown status, unequal columns or malformed laws."""
    count = len(message.sessions)
    columns = (message.base_lengths, message.statuses, message.num_tokens)
    if any(len(column) != count for column in columns):
        raise ValueError(f"{count} blocks with columns of {[len(each) for each in columns]}")
    tokens, confidences = tuple(message.tokens), tuple(message.confidences)
    stops = list(accumulate(message.num_tokens, initial=0))
    if not stops[-1] == len(tokens) == len(confidences):
        raise ValueError(
            f"blocks of {stops[-1]} tokens in all, but {len(tokens)} tokens "
            f"and {len(confidences)} confidences"
        )
    laws: dict[int, DraftLaws] = {}
    for each in message.laws:
        if each.index >= count:
            raise ValueError(f"laws of block {each.index} of {count}")
        laws[each.index] = _laws_from_wire(each.laws)
    return RoundReply(
        number=message.round,
        incarnation=Incarnation(message.incarnation),
        blocks=tuple(
            DraftBlock(
                session=SessionId(session),
                base_length=base_length,
                status=status_from_wire(status),
                tokens=tokens[start:stop],
                confidences=confidences[start:stop],
                laws=laws.get(index),
            )
            for index, (session, base_length, status, (start, stop)) in enumerate(
                zip(
                    message.sessions,
                    message.base_lengths,
                    message.statuses,
                    pairwise(stops),
                    strict=True,
                )
            )
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
