"""The load window: what the engine did since the last report."""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from dspark.core.observed import Observation

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
