"""The load window: what the engine did since the last report."""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from dspark.core.fleet import LoadReport, ReplicaState
from dspark.core.ids import Incarnation, ReplicaName
from dspark.core.observed import Observation, by_position

_MAX_SURVIVALS = 64
_MAX_OBSERVED = 4096


@dataclass(slots=True)
class Sums:
    """Sums of one window; see control.proto."""

    steps: int = 0
    batch_tokens: int = 0
    committed_tokens: int = 0
    drafted_steps: int = 0
    proposed_tokens: int = 0
    accepted_draft_tokens: int = 0
    verified_draft_tokens: int = 0
    skipped_sessions: int = 0
    prompt_tokens: int = 0
    step_s: float = 0.0
    schedule_s: float = 0.0
    turn_s: float = 0.0
    context_tokens: int = 0
    session_steps: int = 0
    kv_bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class LoadWindow:
    """Written by the engine once a step, taken by the reporter."""

    def __init__(self, now_s: float) -> None:
        self._lock = threading.Lock()
        self._sums = Sums()
        self._began_s = now_s
        self._survivals: deque[tuple[float, ...]] = deque(maxlen=_MAX_SURVIVALS)
        self._observed: deque[tuple[str, Observation]] = deque(maxlen=_MAX_OBSERVED)

    def step(
        self,
        *,
        sums: Sums,
        survivals: list[tuple[float, ...]],
        observed: Sequence[tuple[str, Observation]] = (),
    ) -> None:
        """Fold in one step's sums, and of its committed rounds survivals and what came true."""
        with self._lock:
            mine = self._sums
            mine.steps += sums.steps
            mine.batch_tokens += sums.batch_tokens
            mine.committed_tokens += sums.committed_tokens
            mine.drafted_steps += sums.drafted_steps
            mine.proposed_tokens += sums.proposed_tokens
            mine.skipped_sessions += sums.skipped_sessions
            mine.accepted_draft_tokens += sums.accepted_draft_tokens
            mine.verified_draft_tokens += sums.verified_draft_tokens
            mine.prompt_tokens += sums.prompt_tokens
            mine.step_s += sums.step_s
            mine.schedule_s += sums.schedule_s
            mine.context_tokens += sums.context_tokens
            mine.session_steps += sums.session_steps
            mine.kv_bytes += sums.kv_bytes
            self._survivals.extend(survivals)
            self._observed.extend(observed)

    def take_observed(self) -> list[tuple[str, Observation]]:
        """Return (sampling mode, round) of the newest rounds since the last call."""
        with self._lock:
            observed = list(self._observed)
            self._observed.clear()
            return observed

    def turn(self, turn_s: float) -> None:
        """Fold in a turn of the loop, waiting left out."""
        with self._lock:
            self._sums.turn_s += turn_s

    def take(self, now_s: float) -> tuple[Sums, tuple[tuple[float, ...], ...], float]:
        """Return (sums, survivals, seconds) since the last call, and begin anew."""
        with self._lock:
            sums, self._sums = self._sums, Sums()
            survivals = tuple(self._survivals)
            self._survivals.clear()
            window_s, self._began_s = now_s - self._began_s, now_s
            return sums, survivals, window_s

    def report(
        self,
        observed: Sequence[tuple[str, Observation]] = (),
        *,
        replica: ReplicaName,
        incarnation: Incarnation,
        state: ReplicaState,
        now_s: float,
    ) -> LoadReport:
        """Take the window as a report of its steps alone: who is open and what is free is not here.

        Args:
            observed: What was taken of it before.
            replica: The process.
            incarnation: Of that process.
            state: Of that process.
            now_s: The window's clock.
        """
        sums, survivals, window_s = self.take(now_s)
        judged, accepted, stated = by_position([seen for _, seen in observed])
        return LoadReport(
            replica=replica,
            incarnation=incarnation,
            state=state,
            window_s=window_s,
            busy_share=min(1.0, sums.step_s / max(1e-6, window_s)),
            steps=sums.steps,
            batch_tokens=sums.batch_tokens,
            committed_tokens=sums.committed_tokens,
            drafted_steps=sums.drafted_steps,
            accepted_draft_tokens=sums.accepted_draft_tokens,
            verified_draft_tokens=sums.verified_draft_tokens,
            step_s=sums.step_s,
            survivals=survivals,
            prompt_tokens=sums.prompt_tokens,
            session_steps=sums.session_steps,
            mean_context_tokens=sums.context_tokens / max(1, sums.session_steps),
            turn_s=sums.turn_s,
            schedule_s=sums.schedule_s,
            judged_by_position=judged,
            accepted_by_position=accepted,
            confidence_by_position=stated,
        )
