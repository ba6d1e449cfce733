"""Pulls prompts from prefill replicas: tries another one when the first is lost.

Runs on an event loop; ``start`` and ``cancel`` may be called from the engine's thread.  KV moves
behind the ``KvTransport`` seam: in the message's body here, by other means elsewhere.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from dspark.core.draft import Rows
from dspark.core.fleet import Compatibility, Fleet, Member
from dspark.core.ids import ReplicaName, SessionId
from dspark.core.pages import page_hashes
from dspark.core.routing import choose_prefill
from dspark.rpc.channels import Channels
from dspark.rpc.credentials import Credentials
from dspark.rpc.tls_problem import explained
from dspark.rpc.watch import Latest
from dspark.telemetry import tracing
from dspark.verifier.events import Prefilled, PrefillFailed
from dspark.wire.fleet import compatibility_to_wire
from dspark.wire.tensor import tensor_from_wire
from dspark.wire.v1 import prefill_pb2, prefill_pb2_grpc

log = logging.getLogger(__name__)


class KvTransport(Protocol):
    """How a chunk's KV gets from the prefill replica into this process."""

    def fetch(self, chunk: prefill_pb2.PrefillChunk) -> list[NDArray[np.generic]]:
        """Return KV by layer [n, 2, kv_heads, head_dim]."""


class InlineKv:
    """KV in the body of the message."""

    def fetch(self, chunk: prefill_pb2.PrefillChunk) -> list[NDArray[np.generic]]:
        """Return views of the message's bytes."""
        return [tensor_from_wire(layer) for layer in chunk.kv.layers]


class PrefillLink:
    """Implements ``PrefillPort`` over gRPC."""

    def __init__(
        self,
        fleet: Latest[Fleet],
        *,
        compatibility: Compatibility,
        post: Callable[[Prefilled | PrefillFailed], None],
        timeout_s: float,
        attempts: int,
        want_rows: bool,
        hash_root: bytes,
        credentials: Credentials | None = None,
        transport: KvTransport | None = None,
        metadata_of: Callable[[str], tracing.Metadata] = lambda _: (),
    ) -> None:
        self._fleet = fleet
        self._compatibility = compatibility
        self._post = post
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._want_rows = want_rows
        self._hash_root = hash_root
        self._transport = transport or InlineKv()
        self._metadata_of = metadata_of
        self._loop = asyncio.get_running_loop()
        self._tls = None if credentials is None else credentials.settings
        self._channels = Channels(credentials)
        self._pulls: dict[SessionId, asyncio.Task[None]] = {}

    def available(self) -> bool:
        """Whether any prefill replica of our target is ready."""
        return choose_prefill(self._members()) is not None

    def start(
        self,
        session: SessionId,
        attempt: int,
        request_id: str,
        tokens: tuple[int, ...],
        held_hashes: tuple[bytes, ...],
    ) -> None:
        """Begin pulling a prompt (any thread)."""
        request = prefill_pb2.PrefillRequest(
            request_id=request_id,
            token_ids=tokens,
            held_page_hashes=held_hashes,
            compatibility=compatibility_to_wire(self._compatibility),
            want_rows=self._want_rows,
        )
        self._loop.call_soon_threadsafe(self._spawn, session, attempt, request)

    def cancel(self, session: SessionId) -> None:
        """Stop pulling it (any thread)."""
        self._loop.call_soon_threadsafe(self._cancel, session)

    async def close(self) -> None:
        """End every pull and channel."""
        pulls = list(self._pulls.values())
        for pull in pulls:
            pull.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
        await self._channels.close()

    def _spawn(self, session: SessionId, attempt: int, request: prefill_pb2.PrefillRequest) -> None:
        task = asyncio.create_task(self._pull(session, attempt, request))
        self._pulls[session] = task
        task.add_done_callback(lambda _: self._pulls.pop(session, None))

    def _cancel(self, session: SessionId) -> None:
        task = self._pulls.get(session)
        if task is not None:
            task.cancel()

    def _members(self) -> list[Member]:
        fleet = self._fleet.value
        if fleet is None:
            return []
        return [
            member
            for member in fleet.members
            if self._compatibility.mismatch(member.replica.compatibility) is None
        ]

    async def _pull(
        self, session: SessionId, attempt: int, request: prefill_pb2.PrefillRequest
    ) -> None:
        """Try replicas in turn; what one has sent is not asked of the next."""
        failed: set[ReplicaName] = set()
        reason = "no prefill replica is ready"
        affinity = bytes(request.held_page_hashes[0]).hex() if request.held_page_hashes else None
        arrived = 0
        for _ in range(self._attempts):
            members = self._members()
            name = choose_prefill(members, affinity_key=affinity, exclude=failed)
            if name is None:
                break
            address = next(m.replica.address for m in members if m.replica.name == name)
            try:
                async with self._channels.use(address) as channel:
                    async for chunk in self._chunks(channel, request):
                        await self._deliver(session, attempt, chunk)
                        arrived = chunk.start + chunk.num_tokens
                        if chunk.HasField("last_logits"):
                            return
                raise ValueError(f"the stream ended after {arrived} tokens")
            except (grpc.aio.AioRpcError, ValueError) as error:
                text = str(error)
                if isinstance(error, grpc.aio.AioRpcError):
                    text = explained(error.details() or "", self._tls)
                reason = f"{name}: {text}"
                log.warning(
                    "prefill of session %d failed at %s", session, reason,
                    extra={"session": session, "request_id": request.request_id},
                )  # fmt: skip
                failed.add(name)
                self._hold(request, arrived)
        self._post(PrefillFailed(session=session, attempt=attempt, reason=reason))

    def _hold(self, request: prefill_pb2.PrefillRequest, arrived: int) -> None:
        """Note in the request that positions 0 .. arrived - 1 are here: another replica goes on."""
        page_tokens = self._compatibility.page_tokens
        hashes = page_hashes(request.token_ids[:arrived], page_tokens, root=self._hash_root)
        request.held_page_hashes.extend(hashes[len(request.held_page_hashes) :])

    async def _chunks(
        self, channel: grpc.aio.Channel, request: prefill_pb2.PrefillRequest
    ) -> AsyncIterator[prefill_pb2.PrefillChunk]:
        stub: prefill_pb2_grpc.PrefillServiceAsyncStub = prefill_pb2_grpc.PrefillServiceStub(
            channel
        )
        metadata = self._metadata_of(request.request_id) or None
        async for chunk in stub.Prefill(request, timeout=self._timeout_s, metadata=metadata):
            yield chunk

    async def _deliver(
        self, session: SessionId, attempt: int, chunk: prefill_pb2.PrefillChunk
    ) -> None:
        """Hand a chunk to the engine and wait until it is copied: the stream's flow control."""
        taken = asyncio.Event()
        rows: Rows | None = tensor_from_wire(chunk.rows) if chunk.HasField("rows") else None
        logits = None
        if chunk.HasField("last_logits"):
            logits = tensor_from_wire(chunk.last_logits).astype(np.float32, copy=False)
        self._post(
            Prefilled(
                session=session,
                attempt=attempt,
                start=chunk.start,
                num_tokens=chunk.num_tokens,
                kv=self._transport.fetch(chunk),
                rows=rows,
                last_logits=logits,
                taken=lambda: self._loop.call_soon_threadsafe(taken.set),
            )
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(taken.wait(), self._timeout_s)
