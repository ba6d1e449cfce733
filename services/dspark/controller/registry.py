"""Registry: the replicas that are alive, and the last report of each that could be true."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from dspark.core.fleet import LoadReport, Member, Replica, Role
from dspark.core.ids import Incarnation, PoolName, ReplicaName
from dspark.core.pairing import mismatch, reference
from dspark.core.reports import report_problem


class Refused(ValueError):
    """A replica may not join; the message names the field."""


class UnknownPool(ValueError):
    """Nobody knows the pool, nor what its replicas would be."""


class ReportOutcome(Enum):
    """What became of a report."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"  # not registered (any more): it has to register again
    STALE = "stale"  # of a process that was replaced
    ABSURD = "absurd"  # cannot be true; the replica stays


@dataclass(slots=True)
class _Entry:
    replica: Replica
    seen_s: float
    load: LoadReport | None = None


class Registry:
    """Replicas by name, in order of registration.

    Every replica holds a lease that its reports renew.  Its name is unique: a process that
    registers under it with a new incarnation replaces the old one.
    """

    def __init__(self, *, lease_s: float) -> None:
        self._lease_s = lease_s
        self._entries: dict[ReplicaName, _Entry] = {}
        self._roles: dict[PoolName, Role] = {}
        self._standard: Replica | None = None  # whom the others are compared with
        self._checked: Replica | None = None  # whom all of them were compared with

    @property
    def roles(self) -> Mapping[PoolName, Role]:
        """Every pool that was ever known, also those without a replica now."""
        return self._roles

    def know_pool(self, pool: PoolName, role: Role) -> None:
        """Note a pool that may have no replica yet."""
        self._roles.setdefault(pool, role)

    def replicas(self) -> list[Replica]:
        """All replicas, in order of registration."""
        return [entry.replica for entry in self._entries.values()]

    def find(self, name: ReplicaName) -> Replica | None:
        """Return the replica of that name."""
        entry = self._entries.get(name)
        return None if entry is None else entry.replica

    def register(self, replica: Replica, now_s: float) -> bool:
        """Let a replica in, or renew what it says about itself; return whether it is new.

        Raises:
            Refused: It does not fit the fleet; the message names the field and both values.
        """
        role = self._roles.get(replica.pool, replica.role)
        if role is not replica.role:
            raise Refused(
                f"pool {replica.pool!r} is a {role.value} pool: "
                f"a {replica.role.value} needs another pool name"
            )
        standard = self._standard
        if standard is not None and standard.name == replica.name:
            standard = reference([one for one in self.replicas() if one.name != replica.name])
        # A verifier outranks a reference that is a prefill replica: it becomes the reference.
        outranked = replica.role is Role.VERIFIER and (
            standard is None or standard.role is not Role.VERIFIER
        )
        if standard is not None and not outranked:
            problem = mismatch(replica.role, standard.compatibility, replica.compatibility)
            if problem is not None:
                raise Refused(f"{problem} (as set by {standard.name})")
        self._roles[replica.pool] = replica.role
        known = self._entries.get(replica.name)
        if known is not None and known.replica.incarnation == replica.incarnation:
            known.replica, known.seen_s = replica, now_s
            self._choose_standard(replica)
            return False
        self._entries[replica.name] = _Entry(replica=replica, seen_s=now_s)
        self._choose_standard(replica)
        return True

    def evict_misfits(self) -> list[tuple[Replica, str]]:
        """Drop replicas that do not fit the reference (they came before it); say why."""
        standard = self._standard
        if standard is None or standard is self._checked:
            return []
        self._checked = standard
        misfits = []
        for replica in self.replicas():
            problem = mismatch(replica.role, standard.compatibility, replica.compatibility)
            if problem is not None:
                misfits.append((replica, f"{problem} (as set by {standard.name})"))
                del self._entries[replica.name]
        return misfits

    def unregister(self, name: ReplicaName, incarnation: Incarnation) -> Replica | None:
        """Let a replica go; None if it is not here, or replaced already."""
        entry = self._entries.get(name)
        if entry is None or entry.replica.incarnation != incarnation:
            return None
        del self._entries[name]
        self._lost_standard([entry.replica])
        return entry.replica

    def report(self, report: LoadReport, now_s: float) -> tuple[ReportOutcome, str]:
        """Take a report in; return what became of it, and why."""
        entry = self._entries.get(report.replica)
        if entry is None:
            return ReportOutcome.UNKNOWN, f"{report.replica} is not registered"
        replica = entry.replica
        if replica.incarnation != report.incarnation:
            return ReportOutcome.STALE, f"{report.replica} was replaced by another process"
        entry.seen_s = now_s
        problem = report_problem(report, block_size=replica.compatibility.block_size)
        if problem is not None:
            return ReportOutcome.ABSURD, problem
        if replica.state is not report.state:
            entry.replica = replace(replica, state=report.state)
        entry.load = report
        return ReportOutcome.ACCEPTED, ""

    def expire(self, now_s: float) -> list[Replica]:
        """Forget the replicas whose lease ran out, and return them."""
        gone = [
            entry.replica
            for entry in self._entries.values()
            if now_s - entry.seen_s > self._lease_s
        ]
        for replica in gone:
            del self._entries[replica.name]
        self._lost_standard(gone)
        return gone

    def members(self, now_s: float) -> tuple[Member, ...]:
        """Return everybody with the age of the last sign of life."""
        return tuple(
            Member(
                replica=entry.replica,
                load=entry.load,
                seconds_since_report=max(now_s - entry.seen_s, 0.0),
            )
            for entry in self._entries.values()
        )

    def _choose_standard(self, newcomer: Replica) -> None:
        """Look for another standard where the newcomer may be it; mostly it is not."""
        known = self._standard
        if (
            known is None
            or known.name == newcomer.name
            or (newcomer.role is Role.VERIFIER and known.role is not Role.VERIFIER)
        ):
            self._standard = reference(self.replicas())

    def _lost_standard(self, gone: Sequence[Replica]) -> None:
        if self._standard is not None and any(one.name == self._standard.name for one in gone):
            self._standard = reference(self.replicas())
