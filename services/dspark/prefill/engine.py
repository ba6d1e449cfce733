"""The prefill engine: prompts, chunk by chunk, in turn, on a thread of its own.

A chunk is computed only when the stream has room for it, so a slow reader holds up its own
prompt and nobody else's.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dspark.core.draft import Rows
from dspark.core.pages import PageAllocator, PageTable, page_hashes
from dspark.telemetry import metrics

log = logging.getLogger(__name__)

_MAX_UNREAD_CHUNKS = 4


class PrefillTarget(Protocol):
    """What the engine asks of a target model; not thread-safe."""

    @property
    def vocab_size(self) -> int:
        """Tokens are 0 .. vocab_size - 1."""

    @property
    def max_context_tokens(self) -> int:
        """Longest sequence."""

    def run(
        self, tokens: Sequence[int], start: int, pages: Sequence[int], *, want_logits: bool
    ) -> NDArray[np.float32] | None:
        """Run prompt tokens; return the last row's logits if wanted."""

    def export_kv(self, pages: Sequence[int], start: int, stop: int) -> list[NDArray[np.generic]]:
        """Return KV of these positions by layer."""

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Rows:
        """Return context rows of these positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one chunk of a prompt left behind; see prefill.proto."""

    start: int
    num_tokens: int
    kv: Sequence[NDArray[np.generic]]
    rows: Rows | None
    last_logits: NDArray[np.float32] | None
    cached_tokens: int


@dataclass(slots=True, eq=False)
class Job:
    """One prompt under way.

    Attributes:
        tokens: The prompt.
        held_hashes: Leading pages that the caller holds already.
        want_rows: Whether context rows are sent.
        emit: Called from the engine's thread with each chunk; None means that it failed.
        unread: Chunks emitted and not yet taken.
        cancelled: Set when nobody reads any more.
    """

    tokens: tuple[int, ...]
    held_hashes: tuple[bytes, ...]
    want_rows: bool
    emit: Callable[[Chunk | None], object]
    unread: int = 0
    cancelled: bool = False
    table: PageTable | None = None
    hashes: tuple[bytes, ...] = ()
    computed: int = 0
    sent: int = 0
    cached: int = field(default=0)

    @property
    def done(self) -> bool:
        """Whether every position was sent."""
        return self.sent == len(self.tokens)


class Overloaded(Exception):
    """Too many prompts are waiting."""


class PrefillEngine:
    """Owns the pages and the target."""

    def __init__(
        self,
        target: PrefillTarget,
        pages: PageAllocator,
        *,
        chunk_tokens: int,
        max_waiting: int,
        model_name: str,
        hash_root: bytes,
    ) -> None:
        if chunk_tokens % pages.page_tokens:
            raise ValueError(
                f"chunk_tokens {chunk_tokens} is not a multiple of the page size "
                f"{pages.page_tokens}"
            )
        self._target = target
        self.pages = pages
        self._chunk_tokens = chunk_tokens
        self._max_waiting = max_waiting
        self._model_name = model_name
        self._hash_root = hash_root
        self._condition = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._active: deque[Job] = deque()
        self._running = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="prefill-engine", daemon=True)
        self.failure: BaseException | None = None
        self.prompt_tokens = 0
        """Prompt tokens computed since the start."""
        self.busy_s = 0.0
        """Seconds of computing since the start."""

    def start(self) -> None:
        """Start the thread."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the chunk in hand; open prompts fail."""
        with self._condition:
            self._running = False
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=30.0)

    @property
    def num_open(self) -> int:
        """Prompts that wait or run."""
        return len(self._waiting) + len(self._active)

    @property
    def num_active(self) -> int:
        """Prompts that run."""
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        """Prompts without pages."""
        return len(self._waiting)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that were taken in and not computed yet."""
        with self._condition:
            return sum(len(job.tokens) - job.computed for job in (*self._waiting, *self._active))

    def submit(self, job: Job) -> None:
        """Queue a prompt.

        Raises:
            ValueError: It could not run here even alone.
            Overloaded: Too many are waiting.
        """
        capacity = min(
            self.pages.num_pages * self.pages.page_tokens, self._target.max_context_tokens
        )
        if not 0 < len(job.tokens) <= capacity:
            raise ValueError(f"a prompt of {len(job.tokens)} tokens: 1 to {capacity} fit here")
        if max(job.tokens) >= self._target.vocab_size:
            raise ValueError(f"token {max(job.tokens)} is outside 0..{self._target.vocab_size - 1}")
        with self._condition:
            if self._ended:
                job.emit(None)  # nobody would run it
                return
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} prompts are waiting already")
            self._waiting.append(job)
            self._condition.notify()

    def taken(self, job: Job) -> None:
        """One of the job's chunks was sent on."""
        with self._condition:
            job.unread -= 1
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Drop a prompt; its pages are freed before its next chunk."""
        with self._condition:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
            self._condition.notify()

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while self._running and (job := self._next()) is None:
                        self._condition.wait()
                    if not self._running:
                        break
                assert job is not None
                began_s = time.monotonic()
                self._advance(job)
                self.busy_s += time.monotonic() - began_s
        except BaseException as error:
            self.failure = error
            log.exception("the prefill engine died")
        with self._condition:
            self._ended = True
        for job in (*self._waiting, *self._active):
            job.emit(None)

    def _next(self) -> Job | None:
        """Free what was cancelled, admit what fits, and take the next job that has room."""
        for job in [job for job in self._active if job.cancelled or job.done]:
            self._active.remove(job)
            assert job.table is not None
            self.pages.release(job.table)
        while self._waiting and self._admit(self._waiting[0]):
            self._waiting.popleft()
        for _ in range(len(self._active)):
            job = self._active[0]
            self._active.rotate(-1)
            if job.unread < _MAX_UNREAD_CHUNKS:
                return job
        return None

    def _admit(self, job: Job) -> bool:
        job.hashes = page_hashes(job.tokens[:-1], self.pages.page_tokens, root=self._hash_root)
        job.table = self.pages.reserve(len(job.tokens), job.hashes)
        if job.table is None:
            return False
        job.computed = job.cached = job.table.cached_tokens
        # What the caller holds is not sent; pages must be the same ones, from the first on.
        held = 0
        for ours, theirs in zip(job.hashes, job.held_hashes, strict=False):
            if ours != theirs:
                break
            held += 1
        job.sent = held * self.pages.page_tokens
        metrics.VLLM_PREFIX_QUERIES.labels(self._model_name).inc(len(job.tokens))
        metrics.VLLM_PREFIX_HITS.labels(self._model_name).inc(job.cached)
        self._active.append(job)
        return True

    def _advance(self, job: Job) -> None:
        """Send one chunk that the caller lacks; compute it first where it is not here."""
        logits = self._compute(job) if job.sent >= job.computed else None
        if job.sent < job.computed:
            stop = min(job.sent + self._chunk_tokens, job.computed)
            self._emit(job, stop, logits)

    def _compute(self, job: Job) -> NDArray[np.float32] | None:
        """Run one chunk; return the logits of the prompt's last position if it is in there."""
        assert job.table is not None
        stop = min(job.computed + self._chunk_tokens, len(job.tokens))
        last = stop == len(job.tokens)
        logits = self._target.run(
            job.tokens[job.computed : stop], job.computed, job.table.pages, want_logits=last
        )
        self.prompt_tokens += stop - job.computed
        metrics.VLLM_PROMPT_TOKENS.labels(self._model_name).inc(stop - job.computed)
        job.computed = stop
        if last:
            self.pages.publish(
                job.table,
                page_hashes(job.tokens, self.pages.page_tokens, root=self._hash_root),
            )
        return logits

    def _emit(self, job: Job, stop: int, logits: NDArray[np.float32] | None) -> None:
        assert job.table is not None
        chunk = Chunk(
            start=job.sent,
            num_tokens=stop - job.sent,
            kv=self._target.export_kv(job.table.pages, job.sent, stop),
            rows=self._target.rows(job.table.pages, job.sent, stop) if job.want_rows else None,
            last_logits=logits,
            cached_tokens=job.cached,
        )
        with self._condition:
            job.unread += 1
            job.sent = stop
        job.emit(chunk)
