"""A paced drafter, for one thread at a time."""

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from dspark.config.paced import EnginePace
from dspark.core.draft import DraftRequest, Proposal, Rows
from dspark.core.draft_laws import DraftLaws
from dspark.core.sampling import Sampling
from dspark.paced.clock import Device, PaceClock, RealClock
from dspark.paced.text import PacedText


@dataclass(slots=True)
class _Session:
    sampling: Sampling
    num_rows: int = 0


class PacedDrafter:
    """Sleeps its steps; drafts are right as often as their confidences say."""

    def __init__(
        self,
        text: PacedText,
        pace: EnginePace,
        *,
        gamma: int,
        dilation: float,
        max_sessions: int,
        device: Device | None = None,
    ) -> None:
        self._text = text
        self._pace = pace
        self._gamma = gamma
        self._dilation = dilation
        self._max_sessions = max_sessions
        self._device = device or nullcontext()
        self._sessions: dict[Hashable, _Session] = {}
        self.clock: PaceClock = RealClock()

    @property
    def gamma(self) -> int:
        """Largest block."""
        return self._gamma

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        """Begin (or begin anew) a session; False when there is no room."""
        if key not in self._sessions and len(self._sessions) >= self._max_sessions:
            return False
        self._sessions[key] = _Session(sampling=sampling)
        return True

    def append(self, key: Hashable, start: int, rows: Rows) -> int:
        """Count context rows; ValueError on a gap."""
        session = self._sessions[key]
        if start != session.num_rows:
            raise ValueError(f"rows start at {start}, {session.num_rows} are cached")
        session.num_rows += len(rows)
        return session.num_rows

    def cached(self, key: Hashable) -> int | None:
        """Rows counted for a session; None when it is unknown."""
        session = self._sessions.get(key)
        return None if session is None else session.num_rows

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Draft a block for each when its time has passed."""
        step_s = self._pace.step_seconds(
            tokens=len(requests) * self._gamma,
            context_tokens=sum(request.base_length for request in requests),
        )
        with self._device:
            began_s = self.clock.now()
            proposals = [self._proposal(request) for request in requests]
            self.clock.wait_until(began_s + self._dilation * step_s)
        return proposals

    def close(self, key: Hashable) -> None:
        """Free a session; unknown ones are ignored."""
        self._sessions.pop(key, None)

    def _proposal(self, request: DraftRequest) -> Proposal:
        sampling = self._sessions[request.key].sampling
        tokens: list[int] = []
        confidences = []
        for k in range(request.max_tokens):
            before = tokens[-1] if tokens else request.anchor
            token, confidence = self._text.draft(before, request.base_length + 1 + k, sampling)
            tokens.append(token)
            confidences.append(confidence)
        laws = None
        if sampling.rejects:
            laws = DraftLaws(
                counts=(1,) * len(tokens),
                ids=np.array(tokens, dtype=np.int64),
                weights=np.ones(len(tokens), dtype=np.float16),
            )
        return Proposal(tokens=tuple(tokens), confidences=tuple(confidences), laws=laws)
