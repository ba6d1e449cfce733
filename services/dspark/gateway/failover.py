"""What a stream does after a verifier is lost or full: the decisions, without the doing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dspark.core.fleet import Fleet, Member, Replica
from dspark.core.ids import Incarnation, ReplicaName
from dspark.gateway.errors import ApiError, internal, invalid, no_verifier, overloaded
from dspark.gateway.verifiers import Refusal, VerifierLost, VerifierRefused

Process = tuple[ReplicaName, Incarnation]
"""One life of a replica: a restarted one is worth a new try."""


def process_of(replica: Replica) -> Process:
    """Return what identifies this life of the replica."""
    return replica.name, replica.incarnation


@dataclass(slots=True, kw_only=True)
class Failover:
    """One stream's history with its verifiers.

    Attributes:
        attempts: Verifiers that may be lost, this many in all, before the client hears of it.
        wait_s: How long to look for another one after a loss.
        search_until_s: Look until then; a stream that lost nothing does not wait at all.
        avoided: Verifiers that were lost or full.
        losses: How many were lost.
        full: What the last full verifier said, or None.
    """

    attempts: int
    wait_s: float
    search_until_s: float
    avoided: set[Process] = field(default_factory=set)
    losses: int = 0
    full: str | None = None

    @property
    def waits(self) -> bool:
        """Whether this stream has something to lose by an error: then it is patient."""
        return self.losses > 0

    def candidates(self, fleet: Fleet, *, again: bool) -> Sequence[Member]:
        """Return the members to choose from; with ``again`` those that failed before, too."""
        if again:
            return fleet.members
        return [m for m in fleet.members if process_of(m.replica) not in self.avoided]

    def lost(self, replica: Replica, error: VerifierLost, *, tokens: int, now_s: float) -> None:
        """Take note of a loss after ``tokens`` tokens of this attempt.

        A verifier that was lost before, stays listed until its lease ends, and does not answer
        still, costs no attempt: time bounds that.

        Raises:
            ApiError: That was one loss too many.
        """
        process = process_of(replica)
        if tokens or process not in self.avoided:
            self.losses += 1
            self.search_until_s = now_s + self.wait_s
        self.avoided.add(process)
        if self.losses >= self.attempts:
            raise no_verifier(f"{self.losses} verifiers were lost in a row; the last one: {error}")

    def refused(self, replica: Replica, error: VerifierRefused) -> None:
        """Take note of a refusal; return when another verifier should be asked.

        Raises:
            ApiError: No other verifier would do better; the message is the verifier's own.
        """
        match error.refusal:
            case Refusal.FULL:
                self.avoided.add(process_of(replica))
                self.full = error.message
            case Refusal.NEVER_FITS:
                raise invalid("max_tokens", error.message, code="context_length_exceeded")
            case Refusal.BAD_REQUEST:
                raise invalid(None, error.message)
            case Refusal.TIMED_OUT:
                raise ApiError(504, error.message, kind="timeout_error", code="timeout")
            case Refusal.FAILED:
                raise internal(error.message)

    def nobody(self) -> ApiError:
        """Return the error for a stream that found no verifier to go to."""
        if self.full is not None:
            return overloaded(self.full)
        if self.losses:
            return no_verifier(f"No verifier took over the stream within {self.wait_s:g} s")
        return no_verifier()
