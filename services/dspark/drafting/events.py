"""What happens on the drafting side, as values that travel to the engine's thread."""

from dataclasses import dataclass

from dspark.core.curve import Curve
from dspark.core.draft import DraftStatus, RoundReply
from dspark.core.ids import Incarnation, ReplicaName, SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A drafter of our projection answers rounds; ``curve`` says what its batches cost."""

    drafter: ReplicaName
    incarnation: Incarnation
    curve: Curve | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A drafter's stream ended, or it is going away: its sessions must move."""

    drafter: ReplicaName
    incarnation: Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """An answer to a round."""

    drafter: ReplicaName
    reply: RoundReply
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """A seeding ended; anything but OK means that the session is not drafted there."""

    drafter: ReplicaName
    incarnation: Incarnation
    session: SessionId
    seeding: int
    status: DraftStatus
    cached_rows: int


DraftEvent = Connected | Lost | Replied | Seeded
