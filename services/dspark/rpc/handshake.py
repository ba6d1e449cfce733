"""The greeting of two processes: refused, with the field's name, when they do not fit."""

from collections.abc import Sequence
from typing import TypeVar

import grpc
from grpc import aio

from dspark.core.fleet import Compatibility
from dspark.core.ids import Incarnation
from dspark.wire.fleet import compatibility_from_wire, compatibility_to_wire
from dspark.wire.v1 import common_pb2

Q = TypeVar("Q")
R = TypeVar("R")


class Greeter:
    """Answers ``Handshake`` for any service."""

    def __init__(
        self,
        compatibility: Compatibility,
        *,
        replica: str,
        incarnation: Incarnation,
        fields: Sequence[str] = (),
    ) -> None:
        """Answer for one replica; ``fields`` are those that its work depends on, none for all."""
        self._compatibility = compatibility
        self._replica = replica
        self._incarnation = incarnation
        self._fields = fields

    async def answer(
        self,
        request: common_pb2.HandshakeRequest,
        context: aio.ServicerContext[common_pb2.HandshakeRequest, common_pb2.HandshakeResponse],
    ) -> common_pb2.HandshakeResponse:
        """Return our side, or abort with FAILED_PRECONDITION and the first field that differs."""
        await require_match(self._compatibility, request.compatibility, context, self._fields)
        return common_pb2.HandshakeResponse(
            compatibility=compatibility_to_wire(self._compatibility),
            replica=self._replica,
            incarnation=self._incarnation,
        )


async def require_match(
    ours: Compatibility,
    theirs: common_pb2.Compatibility,
    context: aio.ServicerContext[Q, R],
    fields: Sequence[str] = (),
) -> None:
    """Abort the call with FAILED_PRECONDITION unless both sides agree on these (or all) fields."""
    problem = ours.mismatch(compatibility_from_wire(theirs), fields)
    if problem is not None:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"incompatible pair: {problem}")
