"""One verifier and one drafter in virtual time: the paces of a configuration, the rules of core.

A closed loop of users whose sessions follow each other; texts, drafts and confidences are those of
the paced engines, so every run is the same to the last token.  Nothing here decides anything: which
drafts are verified is asked of ``core``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from dspark.config.paced import PacedSettings
from dspark.core.admission import SessionDraft
from dspark.core.curve import Curve, CurvePoint, make_curve
from dspark.core.draft import survivals
from dspark.core.ids import SessionId
from dspark.core.sampling import Sampling
from dspark.paced.text import PacedText

GAMMA = 7
_VOCAB = 4096
_PROMPT, _TOKENS = 100, 64
_CONTEXT = _PROMPT + _TOKENS // 2
_TRAVEL_S = 0.0003  # of a round outside both engines

Lengths = Mapping[SessionId, int]
Rule = Callable[[Sequence[SessionDraft], float], Lengths]
"""(this step's drafts, seconds until they came) -> how many of each are verified."""


@dataclass(slots=True)
class _Session:
    id: SessionId
    sampling: Sampling
    last: int
    length: int = _PROMPT
    left: int = _TOKENS


@dataclass(frozen=True, slots=True)
class Run:
    """What a run yielded."""

    tokens_per_s: float
    verified: float
    """Drafts verified, of a session's step."""


class Twin:
    """Engines of one pace under a number of users."""

    def __init__(self, pace: PacedSettings) -> None:
        self._pace = pace
        self._text = PacedText(_VOCAB, avoid=(), acceptance=pace.acceptance)

    def curve(self) -> Curve:
        """The verifier's, as it profiles itself."""
        return self._curve(self._verify_s, range(1, GAMMA + 2), "verifier")

    def drafter_curve(self) -> Curve:
        """The drafter's."""
        return self._curve(self._draft_s, (GAMMA,), "drafter")

    def draft_round_s(self, users: int) -> float:
        """A draft round trip of all users."""
        return self._draft_s(users, users * GAMMA) + _TRAVEL_S

    def run(self, users: int, rule: Rule | None, *, steps: int, max_tokens: int = GAMMA) -> Run:
        """Run so many steps; without a rule nothing is drafted."""
        numbers = count(1)
        sessions = [self._begin(next(numbers)) for _ in range(users)]
        now_s = 0.0
        committed = verified = 0
        for _ in range(steps):
            blocks = {}
            if rule is not None:
                blocks = {one.id: self._block(one, max_tokens) for one in sessions}
                wait_s = self.draft_round_s(users)
                now_s += wait_s
                drafts = [
                    SessionDraft(session=one, survivals=survivals(block[1]))
                    for one, block in blocks.items()
                ]
                lengths = rule(drafts, wait_s)
            else:
                lengths = {}
            batch_tokens = users + sum(lengths.values())
            now_s += self._verify_s(users, batch_tokens)
            verified += batch_tokens - users
            for index, one in enumerate(sessions):
                tokens = blocks.get(one.id, ((), ()))[0][: lengths.get(one.id, 0)]
                committed += self._commit(one, tokens)
                if one.left == 0:
                    sessions[index] = self._begin(next(numbers))
        return Run(committed / now_s, verified / steps / users)

    def _begin(self, number: int) -> _Session:
        return _Session(SessionId(number), Sampling(seed=number), last=number % _VOCAB)

    def _block(self, one: _Session, most: int) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        confidences = []
        for k in range(min(most, one.left - 1)):
            before = tokens[-1] if tokens else one.last
            token, confidence = self._text.draft(before, one.length + 1 + k, one.sampling)
            tokens.append(token)
            confidences.append(confidence)
        return tokens, confidences

    def _commit(self, one: _Session, drafts: Sequence[int]) -> int:
        """Judge a session's drafts; return how many tokens it gains."""
        gained = 0
        for draft in [*drafts, None]:
            one.last = self._text.next_token(one.last, one.length + 1, one.sampling)
            one.length, one.left, gained = one.length + 1, one.left - 1, gained + 1
            if draft != one.last:
                break
        return gained

    def _verify_s(self, sessions: int, batch_tokens: int) -> float:
        return self._pace.target.step_seconds(
            tokens=batch_tokens, context_tokens=sessions * _CONTEXT
        )

    def _draft_s(self, sessions: int, tokens: int) -> float:
        return self._pace.drafter.step_seconds(tokens=tokens, context_tokens=sessions * _CONTEXT)

    def _curve(self, seconds: Callable[[int, int], float], each: Sequence[int], name: str) -> Curve:
        points = [
            CurvePoint(
                context_tokens=_CONTEXT,
                sessions=sessions,
                batch_tokens=sessions * tokens,
                step_s=seconds(sessions, sessions * tokens),
            )
            for sessions in (1, 2, 4, 8, 16, 32, 64)
            for tokens in each
        ]
        return make_curve(name, self._pace.name, points)
