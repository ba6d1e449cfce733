"""The verifier's engine: the thread that drives intake and rounds.

``submit``, ``cancel`` and ``post`` may be called from any thread and never block.  The loop is:
take what arrived; admit what fits; wait for this cohort's drafts, but no longer than their
deadline; one ragged forward; commit; ask for the next drafts.
"""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

from dspark.config.verifier import VerifierSettings
from dspark.core.cohorts import place_in_cohorts
from dspark.core.curve import Curve
from dspark.core.generation import Generation
from dspark.core.ids import SessionId
from dspark.core.pages import PageAllocator
from dspark.core.refinement import Refinement
from dspark.core.session import Phase
from dspark.drafting.desk import DraftDesk
from dspark.drafting.events import Connected, Lost, Replied, Seeded
from dspark.telemetry import metrics
from dspark.verifier.events import (
    Cancelled,
    EngineEvent,
    Prefilled,
    PrefillFailed,
    PrefillPort,
    Sink,
    Submitted,
)
from dspark.verifier.guard import Guard
from dspark.verifier.intake import Intake
from dspark.verifier.pace import Pace
from dspark.verifier.refusals import refuse_excess, refuse_impossible
from dspark.verifier.rounds import BudgetSource, Rounds
from dspark.verifier.session import VerifierSession, mean_context_tokens
from dspark.verifier.step import VerifyStep
from dspark.verifier.target_port import Target
from dspark.verifier.window import LoadWindow

log = logging.getLogger(__name__)


class VerifierEngine:
    """Sessions in, committed tokens out."""

    def __init__(
        self,
        target: Target,
        pages: PageAllocator,
        desk: DraftDesk | None,
        prefill: PrefillPort | None,
        budget: BudgetSource,
        *,
        settings: VerifierSettings,
        curve: Curve | None,
        block_size: int,
        model_name: str,
        hash_root: bytes = b"",
        guard: Guard | None = None,
        inbox: "queue.SimpleQueue[EngineEvent] | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._settings = settings
        self._model_name = model_name
        self._cohorts_gauge = metrics.VERIFY_COHORTS.labels(settings.pool)
        self._clock = clock
        self._inbox: queue.SimpleQueue[EngineEvent] = inbox or queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._cohort = 0
        self._pace = Pace(settings.cohorts, curve=curve, block_size=block_size)
        self.refinement = None if curve is None else Refinement(curve)
        self._turn_began_s = clock()
        self._waited_s = 0.0
        self._lock = threading.Lock()
        self._num_open = 0
        self._running = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="verifier-engine", daemon=True)
        self.desk = desk
        self.guard = guard
        self.window = LoadWindow(clock())
        self.failure: BaseException | None = None
        self.deliver: Callable[[], object] = lambda: None
        """Hands on what sinks were given: called around each step and before the thread waits."""
        self.intake = Intake(
            target,
            pages,
            prefill,
            block_size=block_size,
            max_sessions=settings.max_sessions,
            local_prefill_tokens=settings.local_prefill_tokens,
            model_name=model_name,
            hash_root=hash_root,
            begun=lambda session, token: self._rounds.begin(session, token),
            ended=self._session_ended,
        )
        self._rounds = Rounds(
            target,
            desk,
            budget,
            self.window,
            curve=curve,
            block_size=block_size,
            max_batch_tokens=settings.max_batch_tokens,
            prefill_chunk_tokens=settings.prefill_chunk_tokens,
            pool=settings.pool,
            model_name=model_name,
            clock=clock,
            guard=guard,
            skips=settings.drafting.skip,
            ended=self.intake.end,
            prompt_done=self.intake.prompt_done,
        )

    def start(self) -> None:
        """Start the thread."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step in hand; open sessions fail."""
        self._running = False
        self.cancel(SessionId(0))  # wakes the thread
        if self._thread.is_alive():
            self._thread.join(timeout=30.0)

    def prepare(self, generation: Generation) -> None:
        """Do what makes ``submit`` of a grammar slow; raise ValueError where it is none."""
        self._target.processor(generation)

    def submit(self, generation: Generation, sink: Sink) -> SessionId:
        """Take a generation.

        Raises:
            NeverFits: It could not run here even alone.
            Overloaded: Too many are waiting already.
            ValueError: It asks for what this target cannot do.
        """
        pages = self.intake.pages
        refuse_impossible(
            generation,
            capacity_tokens=min(
                pages.num_pages * pages.page_tokens, self._target.max_context_tokens
            ),
            vocab_size=self._target.vocab_size,
        )
        processor = self._target.processor(generation) if generation.wants_processor else None
        with self._lock:
            refuse_excess(self._num_open, self._settings)
            self._num_open += 1
        session = SessionId(next(self._ids))
        now_s = self._clock()
        self.post(
            Submitted(
                session=session,
                generation=generation,
                sink=sink,
                arrived_s=now_s,
                processor=processor,
            )
        )
        if self._ended:
            self._refuse_rest()
        return session

    def cancel(self, session: SessionId) -> None:
        """Drop a session; unknown ones are ignored."""
        self.post(Cancelled(session=session))

    def post(self, event: EngineEvent) -> None:
        """Hand an event to the engine's thread."""
        self._inbox.put(event)

    @property
    def num_open(self) -> int:
        """Sessions submitted and not ended."""
        return self._num_open

    def _run(self) -> None:
        self._turn_began_s = self._clock()
        try:
            while self._running:
                # Pages freed by the last step may admit a session that nothing else would wake.
                self.intake.admit_waiting(self._clock())
                self._take_events(
                    block=not any(map(_steps, self._sessions())) and not self._checks()
                )
                self.intake.admit_waiting(self._clock())
                self._rounds.ask_newcomers()
                self._turn()
                self._await_drafts()
                self.deliver()
                self._step()
                self.deliver()
                if self.guard is not None and self._checks():
                    self.guard.step()
        except BaseException as error:
            self.failure = error
            log.exception("the verifier engine died")
        for session in self._sessions():
            session.sink.fail("the verifier stopped")
        self._ended = True
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Fail what was submitted too late: nobody reads the inbox any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._inbox.get_nowait()
                if isinstance(event, Submitted):
                    event.sink.fail("the verifier stopped")
        self.deliver()

    def _sessions(self) -> list[VerifierSession]:
        return list(self.intake.sessions.values())

    def _take_events(self, *, block: bool) -> None:
        if (block or self._checks()) and self._inbox.empty():
            self.deliver()
            if self.desk is not None:
                self.desk.flush(self._clock())
        began_s = self._clock()
        try:
            event = self._inbox.get(block=block)
            if block:
                self._waited_s += self._clock() - began_s
            while True:
                self._handle(event)
                event = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _handle(self, event: EngineEvent) -> None:
        if isinstance(event, Connected | Lost | Replied | Seeded):
            if self.desk is not None:
                self.desk.handle(event, self._clock())
        elif isinstance(event, Submitted):
            self.intake.submitted(event)
            if self.guard is not None:
                self.guard.rest()  # before the pages are asked for
                self.guard.chosen(self.intake.sessions[event.session])
        elif isinstance(event, Cancelled):
            session = self.intake.sessions.get(event.session)
            if session is not None:
                self.intake.end(session, Phase.CANCELLED)
        elif isinstance(event, Prefilled):
            self.intake.prefilled(event)
        else:
            assert isinstance(event, PrefillFailed)
            self.intake.prefill_failed(event)

    def _turn(self) -> None:
        """Choose how many cohorts alternate, and whose turn it is."""
        decoding = [s for s in self._sessions() if s.phase is Phase.DECODING]
        if self._pace.due(len(decoding)):
            if self.refinement is not None:
                self._pace.curve = self._rounds.curve = self.refinement.fold()
                self._pace.surprised(self.refinement.surprise)
            if self.desk is not None:
                context_tokens = mean_context_tokens(decoding)
                self._pace.reconsider(
                    sessions=len(decoding),
                    context_tokens=context_tokens,
                    drafted_share=self._rounds.pulse.drafted_share,
                    drafter_curve=self.desk.drafter_curve,
                    round_trip_s=self.desk.round_trip_s,
                )
                self._rounds.price = self._pace.price(
                    sessions=len(decoding),
                    context_tokens=context_tokens,
                    batch_tokens=self._rounds.pulse.batch_tokens,
                    committed_tokens=self._rounds.pulse.committed_tokens,
                    drafter_curve=self.desk.drafter_curve,
                    round_trip_s=self.desk.round_trip_s,
                )
            self._cohorts_gauge.set(self._pace.cohorts)
        cohorts = place_in_cohorts([session.cohort for session in decoding], self._pace.cohorts)
        for session, cohort in zip(decoding, cohorts, strict=True):
            session.cohort = cohort
        self._cohort = (self._cohort + 1) % self._pace.cohorts

    def _await_drafts(self) -> None:
        """Wait for the cohort's drafts, handling whatever else arrives, until their deadline."""
        if self.desk is None:
            return
        while self._running:
            deadline_s = self.desk.pending_until(session.id for session in self._decoding())
            wait_s = 0.0 if deadline_s is None else deadline_s - self._clock()
            if wait_s <= 0:
                return
            self.deliver()
            began_s = self._clock()
            try:
                event = self._inbox.get(timeout=wait_s)
            except queue.Empty:
                return
            finally:
                self._waited_s += self._clock() - began_s
            self._handle(event)

    def _step(self) -> None:
        decoding = self._decoding()
        for session in decoding:
            session.cohort = self._cohort  # who began while this cohort waited steps with it
        prefilling = [
            session
            for session in self._sessions()
            if session.phase is Phase.PREFILLING and session.local
        ]
        metrics.VLLM_RUNNING.labels(self._model_name).set(len(decoding))
        metrics.VLLM_WAITING.labels(self._model_name).set(self.intake.num_waiting)
        if decoding or prefilling:
            self._observe(self._rounds.step(decoding, prefilling))

    def _observe(self, step: VerifyStep) -> None:
        """Compare a turn of the loop, waiting left out, with what the curve says of its step."""
        now_s = self._clock()
        turn_s = now_s - self._turn_began_s - self._waited_s
        self._turn_began_s, self._waited_s = now_s, 0.0
        self.window.turn(turn_s)
        # A step with a prompt's chunk is another kind of step than the curve's.
        if self.refinement is not None and step.decoding and not step.prefilling and turn_s > 0:
            self.refinement.observe(
                sessions=len(step.decoding),
                batch_tokens=step.batch_tokens,
                context_tokens=mean_context_tokens(step.decoding),
                step_s=turn_s,
            )

    def _decoding(self) -> list[VerifierSession]:
        return [
            session
            for session in self._sessions()
            if session.phase is Phase.DECODING and session.cohort in (None, self._cohort)
        ]

    def _checks(self) -> bool:
        """Whether the verifier is idle and the guard is not."""
        return self.guard is not None and self.guard.pending and not self.intake.sessions

    def _session_ended(self, session: SessionId) -> None:
        if self.guard is not None:
            self.guard.ended(session)
        if self.desk is not None:
            self.desk.close(session)
        with self._lock:
            self._num_open -= 1


def _steps(session: VerifierSession) -> bool:
    """Whether a session has work for the next target forward."""
    return session.phase is Phase.DECODING or (session.phase is Phase.PREFILLING and session.local)
