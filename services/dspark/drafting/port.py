"""What the desk asks of a transport; every method returns at once and may be called anywhere."""

from collections.abc import Sequence
from typing import Protocol

from dspark.core.draft import Round, Rows
from dspark.core.ids import ReplicaName, SessionId
from dspark.core.sampling import Sampling


class DraftPort(Protocol):
    """Sends rounds and seeds to drafters; answers arrive elsewhere, as events."""

    def send(self, drafter: ReplicaName, round_: Round) -> int:
        """Queue a round; return its size in bytes.

        A full outbox loses the drafter (a ``Lost`` event follows), never a single message:
        rows must not be skipped.
        """

    def seed(
        self,
        drafter: ReplicaName,
        session: SessionId,
        seeding: int,
        sampling: Sampling,
        rows: Sequence[tuple[int, Rows]],
    ) -> None:
        """Fill a session's cache with chunks of (start, rows).

        A ``Seeded`` event follows within a bounded time, or the drafter is ``Lost``.
        """
