"""Intake: from a submitted generation to a session whose prompt is in the pages.

A session gets all the pages that it can ever need, or waits: so no admitted session can stall
for want of a page, and none is ever thrown out.  Used by the engine's thread only.
"""

import logging
from collections import deque
from collections.abc import Callable

from dspark.core.generation import GenerationStats
from dspark.core.ids import SessionId
from dspark.core.pages import PageAllocator, PageTable, page_hashes
from dspark.core.session import Phase
from dspark.telemetry import metrics
from dspark.verifier.events import Prefilled, PrefillFailed, PrefillPort, Submitted
from dspark.verifier.session import VerifierSession
from dspark.verifier.target_port import Target

log = logging.getLogger(__name__)


class Intake:
    """The sessions, their pages, the waiting queue and the prompts under way."""

    def __init__(
        self,
        target: Target,
        pages: PageAllocator,
        prefill: PrefillPort | None,
        *,
        block_size: int,
        max_sessions: int,
        local_prefill_tokens: int,
        model_name: str,
        hash_root: bytes,
        begun: Callable[[VerifierSession, int], None],
        ended: Callable[[SessionId], None],
    ) -> None:
        self._target = target
        self.pages = pages
        self._prefill = prefill
        self._block_size = block_size
        self._max_sessions = max_sessions
        self._local_prefill_tokens = local_prefill_tokens
        self._model_name = model_name
        self._hash_root = hash_root
        self._begun = begun
        self._ended = ended
        self._waiting: deque[VerifierSession] = deque()
        self.sessions: dict[SessionId, VerifierSession] = {}
        self.kv_bytes = 0
        """Bytes of KV and rows received from prefill replicas since the start."""

    @property
    def num_waiting(self) -> int:
        """Sessions without pages."""
        return len(self._waiting)

    def submitted(self, event: Submitted) -> None:
        """Queue a new session."""
        generation = event.generation
        tokens = [*generation.prompt, *generation.committed]
        session = VerifierSession(
            id=event.session,
            generation=generation,
            sink=event.sink,
            tokens=tokens,
            stats=GenerationStats(block_size=self._block_size),
            arrived_s=event.arrived_s,
            processor=event.processor,
            # The last position is always computed, for its logits.
            prefix_hashes=page_hashes(tokens[:-1], self.pages.page_tokens, root=self._hash_root),
        )
        self.sessions[session.id] = session
        self._waiting.append(session)

    def admit_waiting(self, now_s: float) -> None:
        """Admit by priority, then arrival, while pages for the whole generation are free.

        Where the same prompt is on its way already (another choice of one request), a session
        lets others pass until it can share those pages.
        """
        for session in sorted(self._waiting, key=lambda one: one.generation.priority):
            if len(self.sessions) - len(self._waiting) >= self._max_sessions:
                return
            if self._on_its_way(session.prefix_hashes):
                continue
            table = self.pages.reserve(session.generation.total_tokens, session.prefix_hashes)
            if table is None:
                return
            self._waiting.remove(session)
            metrics.VLLM_QUEUE_TIME.labels(self._model_name).observe(now_s - session.arrived_s)
            self._place(session, table)

    def end(self, session: VerifierSession, phase: Phase) -> None:
        """Free everything of a session; what it computed stays cached while there is room.

        So the next turn of a conversation finds the answer of the last one, rows and all.
        """
        if session.phase is Phase.WAITING:
            self._waiting.remove(session)
        elif session.phase is Phase.PREFILLING and not session.local and self._prefill:
            self._prefill.cancel(session.id)
        if session.phase is Phase.DECODING:
            self._publish(session)
        session.enter(phase)
        if session.table is not None:
            self.pages.release(session.table)
            session.table = None
        del self.sessions[session.id]
        self._ended(session.id)

    def prefilled(self, event: Prefilled) -> None:
        """Copy a chunk into the session's pages; after the last, choose the first token."""
        session = self.sessions.get(event.session)
        if (
            session is None
            or session.phase is not Phase.PREFILLING
            or session.attempt != event.attempt
            or session.local
        ):
            event.taken()
            return
        if event.start != session.computed:
            # The replica disagrees on which pages are held here: do without it.
            event.taken()
            self._do_without(session, f"a chunk starts at {event.start}, not {session.computed}")
            return
        try:
            self._target.import_chunk(session.pages, event.start, event.kv, event.rows)
        except ValueError as error:
            event.taken()
            self._do_without(session, str(error))
            return
        self.kv_bytes += sum(layer.nbytes for layer in event.kv)
        session.computed += event.num_tokens
        event.taken()
        if event.last_logits is not None:
            token = self._target.choose(
                event.last_logits,
                session.generation.sampling,
                len(session.tokens),
                session.processor,
            )
            metrics.DISAGG_DECISIONS.labels("remote").inc()
            self.prompt_done(session, token)

    def _do_without(self, session: VerifierSession, reason: str) -> None:
        """Stop pulling a prompt that comes wrong."""
        assert self._prefill is not None
        self._prefill.cancel(session.id)
        self.prefill_failed(
            PrefillFailed(session=session.id, attempt=session.attempt, reason=reason)
        )

    def prefill_failed(self, event: PrefillFailed) -> None:
        """Run the rest of a prompt here: what arrived already stays."""
        session = self.sessions.get(event.session)
        if session is not None and session.attempt == event.attempt and not session.local:
            log.warning(
                "session %d runs its prompt here: %s", session.id, event.reason,
                extra={"session": session.id, "request_id": session.generation.request_id},
            )  # fmt: skip
            metrics.DISAGG_DECISIONS.labels("retried_local").inc()
            session.local = True

    def prompt_done(self, session: VerifierSession, token: int) -> None:
        """The prompt is in the pages: let others share it, and start decoding."""
        session.computed = len(session.tokens)
        self._publish(session)
        self._begun(session, token)

    def _publish(self, session: VerifierSession) -> None:
        """Let others share the full pages of what is computed."""
        assert session.table is not None
        tokens = session.tokens[: session.computed]
        self.pages.publish(
            session.table, page_hashes(tokens, self.pages.page_tokens, root=self._hash_root)
        )

    def _on_its_way(self, hashes: tuple[bytes, ...]) -> bool:
        """Whether these very pages are being computed and not here yet."""
        return (
            bool(hashes)
            and self.pages.cached_prefix(hashes) < len(hashes)
            and any(
                session.phase is Phase.PREFILLING and session.prefix_hashes[-1:] == hashes[-1:]
                for session in self.sessions.values()
            )
        )

    def _place(self, session: VerifierSession, table: PageTable) -> None:
        session.table = table
        session.computed = session.stats.cached_prompt_tokens = table.cached_tokens
        session.enter(Phase.PREFILLING)
        metrics.VLLM_PREFIX_QUERIES.labels(self._model_name).inc(len(session.tokens))
        metrics.VLLM_PREFIX_HITS.labels(self._model_name).inc(table.cached_tokens)
        missing = len(session.tokens) - table.cached_tokens
        session.local = (
            self._prefill is None
            or missing <= self._local_prefill_tokens
            or not self._prefill.available()
        )
        if session.local or self._prefill is None:
            metrics.DISAGG_DECISIONS.labels("local").inc()
            return
        session.attempt += 1
        held = session.prefix_hashes[: table.cached_tokens // self.pages.page_tokens]
        self._prefill.start(
            session.id,
            session.attempt,
            session.generation.request_id,
            tuple(session.tokens),
            held,
        )
