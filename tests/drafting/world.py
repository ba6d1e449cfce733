"""A desk over a port that only writes down what it is asked: every answer is the test's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dspark.core.draft import DraftBlock, DraftStatus, Round, RoundReply, Rows
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.sampling import Sampling
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import Ask, DraftDesk
from dspark.drafting.events import Connected, Lost, Replied, Seeded

VOCAB = 1000


def true_rows(session: SessionId, start: int, stop: int) -> Rows:
    """The one true row of each position: [n, 2], so that a swap of sessions shows too."""
    return np.array(
        [[session, position] for position in range(start, stop)], dtype=np.float32
    ).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class Seeding:
    """A call of ``seed``."""

    drafter: ReplicaName
    session: SessionId
    number: int
    chunks: tuple[tuple[int, Rows], ...]

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for _, rows in self.chunks)


class Recorder:
    """A port that keeps what it was given."""

    def __init__(self) -> None:
        self.rounds: list[tuple[ReplicaName, Round]] = []
        self.seedings: list[Seeding] = []

    def send(self, drafter: ReplicaName, round_: Round) -> int:
        self.rounds.append((drafter, round_))
        return 0

    def seed(
        self,
        drafter: ReplicaName,
        session: SessionId,
        seeding: int,
        sampling: Sampling,
        rows: Sequence[tuple[int, Rows]],
    ) -> None:
        self.seedings.append(Seeding(drafter, session, seeding, tuple(rows)))


class Desk:
    """A desk and short ways to say what happens to it."""

    def __init__(
        self,
        *drafters: str,
        seed_chunk_bytes: int = 64,
        max_opening_bytes: int = 0,
        max_sessions: int = 8,
    ) -> None:
        self.port = Recorder()
        self.now_s = 0.0
        self.desk = DraftDesk(
            self.port,
            rows=true_rows,
            deadline=Deadline(floor_s=1.0, factor=3.0),
            seed_chunk_bytes=seed_chunk_bytes,
            max_opening_bytes=max_opening_bytes,
            max_sessions_per_drafter=max_sessions,
            vocab_size=VOCAB,
        )
        for drafter in drafters:
            self.connect(drafter)

    def connect(self, drafter: str, incarnation: int = 1) -> None:
        self.desk.handle(
            Connected(drafter=ReplicaName(drafter), incarnation=Incarnation(incarnation)),
            self.now_s,
        )

    def lose(self, drafter: str, incarnation: int = 1) -> None:
        self.desk.handle(
            Lost(drafter=ReplicaName(drafter), incarnation=Incarnation(incarnation)), self.now_s
        )

    def open(self, session: int, num_rows: int = 4) -> None:
        self.desk.open(SessionId(session), Sampling(), num_rows)

    def seeded(
        self,
        seeding: Seeding | None = None,
        *,
        status: DraftStatus = DraftStatus.OK,
        cached_rows: int | None = None,
    ) -> None:
        """The last seeding (or this one) ends."""
        seeding = seeding or self.port.seedings[-1]
        self.desk.handle(
            Seeded(
                drafter=seeding.drafter,
                incarnation=Incarnation(1),
                session=seeding.session,
                seeding=seeding.number,
                status=status,
                cached_rows=seeding.num_rows if cached_rows is None else cached_rows,
            ),
            self.now_s,
        )

    def ready(self, session: int, num_rows: int = 4) -> None:
        """Open a session and let its seeding succeed."""
        self.open(session, num_rows)
        self.seeded()

    def ask(self, *asks: tuple[int, int]) -> dict[SessionId, int]:
        """Ask for (session, base length)."""
        return self.desk.request(
            [
                Ask(session=SessionId(session), base_length=base, anchor=9, max_tokens=2)
                for session, base in asks
            ],
            self.now_s,
        )

    def reply(
        self,
        *blocks: tuple[int, int],
        drafter: str = "d1",
        incarnation: int = 1,
        number: int | None = None,
        status: DraftStatus = DraftStatus.OK,
        draining: bool = False,
        token: int = 3,
    ) -> None:
        """An answer for (session, base length), by default to the last round."""
        tokens = (token,) if status is DraftStatus.OK else ()
        self.desk.handle(
            Replied(
                drafter=ReplicaName(drafter),
                reply=RoundReply(
                    number=self.port.rounds[-1][1].number if number is None else number,
                    incarnation=Incarnation(incarnation),
                    blocks=tuple(
                        DraftBlock(
                            session=SessionId(session),
                            base_length=base,
                            status=status,
                            tokens=tokens,
                            confidences=tuple(0.5 for _ in tokens),
                        )
                        for session, base in blocks
                    ),
                    draining=draining,
                ),
                num_bytes=10,
            ),
            self.now_s,
        )

    def take(self, session: int, base_length: int) -> tuple[int, ...] | None:
        """Tokens of the draft that may be used."""
        block = self.desk.take(SessionId(session), base_length)
        return None if block is None else block.tokens

    @property
    def asked(self) -> list[tuple[str, int, int]]:
        """(drafter, session, base length) of every question sent."""
        return [
            (drafter, part.session, part.base_length)
            for drafter, round_ in self.port.rounds
            for part in round_.sessions
        ]

    @property
    def released(self) -> list[tuple[str, int]]:
        return [
            (drafter, session)
            for drafter, round_ in self.port.rounds
            for session in round_.released
        ]
