"""A ``DraftPort`` that calls a drafter's engine in the same process."""

from collections.abc import Callable, Sequence
from functools import partial

from dspark.core.curve import Curve
from dspark.core.draft import DraftStatus, Round, Rows
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.sampling import Sampling
from dspark.drafter.engine import DrafterEngine, VerifierKey
from dspark.drafting.events import Connected, DraftEvent, Lost, Replied, Seeded
from dspark.local.line import Line


class MemoryPort:
    """Joins one verifier's desk to one or more drafter engines."""

    def __init__(
        self,
        post: Callable[[DraftEvent], None],
        *,
        replica: str = "local",
        latency_s: float = 0.0,
    ) -> None:
        """Join a desk.

        Args:
            post: Takes what drafters answer.
            replica: The verifier's name.
            latency_s: One-way delay of rounds, seeds and answers, as a network would add.
        """
        self._line = Line(latency_s) if latency_s > 0 else None
        self._post = post if self._line is None else self._delayed(post)
        self._verifier = VerifierKey(replica=replica, incarnation=Incarnation(1))
        self._engines: dict[ReplicaName, tuple[DrafterEngine, Incarnation]] = {}

    def close(self) -> None:
        """Drop what is still on its way."""
        if self._line is not None:
            self._line.close()

    def connect(
        self,
        name: ReplicaName,
        engine: DrafterEngine,
        incarnation: Incarnation,
        curve: Curve | None = None,
    ) -> None:
        """Make a drafter available."""
        engine.attach(self._verifier)
        self._engines[name] = (engine, incarnation)
        self._post(Connected(drafter=name, incarnation=incarnation, curve=curve))

    def disconnect(self, name: ReplicaName) -> None:
        """Lose a drafter, as when its stream ends."""
        engine, incarnation = self._engines.pop(name)
        engine.forget(self._verifier)
        self._post(Lost(drafter=name, incarnation=incarnation))

    def send(self, drafter: ReplicaName, round_: Round) -> int:
        """Hand a round to the engine."""
        found = self._engines.get(drafter)
        if found is not None:
            self._there(
                partial(
                    found[0].submit,
                    self._verifier,
                    round_,
                    lambda reply: self._post(Replied(drafter=drafter, reply=reply, num_bytes=0)),
                )
            )
        return 0

    def seed(
        self,
        drafter: ReplicaName,
        session: SessionId,
        seeding: int,
        sampling: Sampling,
        rows: Sequence[tuple[int, Rows]],
    ) -> None:
        """Open the session and append its rows."""
        found = self._engines.get(drafter)
        if found is None:
            return
        engine, incarnation = found

        def seeded(cached: int) -> None:
            self._post(
                Seeded(
                    drafter=drafter,
                    incarnation=incarnation,
                    session=session,
                    seeding=seeding,
                    status=DraftStatus.OK if cached >= 0 else DraftStatus.NOT_SEEDED,
                    cached_rows=max(0, cached),
                )
            )

        def opened(ok: bool) -> None:
            if not ok:
                seeded(-1)
            elif not rows:
                seeded(0)

        def fill() -> None:
            engine.open(self._verifier, session, sampling, opened)
            for index, (start, chunk) in enumerate(rows):
                done = seeded if index == len(rows) - 1 else lambda _: None
                engine.seed(self._verifier, session, start, chunk, done)

        self._there(fill)

    def _there(self, deliver: Callable[[], object]) -> None:
        if self._line is None:
            deliver()
        else:
            self._line.put(deliver)

    def _delayed(self, post: Callable[[DraftEvent], None]) -> Callable[[DraftEvent], None]:
        line = self._line
        assert line is not None
        return lambda event: line.put(lambda: post(event))
