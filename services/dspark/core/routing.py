"""Routing: which replica takes a new session, a prompt, or a session's drafts.

Requests that share a prefix should meet again where its pages are, so the replicas are ranked by
rendezvous hashing of (key, name): when one comes or goes, only its own share of keys moves.  The
first in that order takes the request unless it is busier than the bound allows; loads are reported
once in a while only, so the bound is generous.  Every choice depends on its arguments alone.
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b

from dspark.core.fleet import Member, ReplicaState, Role
from dspark.core.ids import ReplicaName

LOAD_BOUND = 1.25
"""A replica takes a request by affinity up to this many times the mean load of the pool ..."""

LOAD_SLACK = 2
"""... and this many sessions, so that a nearly idle pool still keeps prefixes together."""


def choose_verifier(
    members: Sequence[Member],
    *,
    affinity_key: str | None = None,
    exclude: Collection[ReplicaName] = (),
    in_flight: Mapping[ReplicaName, int] | None = None,
) -> ReplicaName | None:
    """Choose the verifier for a new session, or None when there is no ready one.

    Args:
        members: The fleet's members; all but ready verifiers are ignored.
        affinity_key: Requests with equal keys (a digest of the prompt's first pages, say) are sent
            to the same replica while it is not overloaded; None: the least loaded one.
        exclude: Replicas that have just failed this request.
        in_flight: The caller's own requests by replica, where they are not reported yet.
    """
    return _choose(ready(members, Role.VERIFIER), affinity_key, exclude, in_flight or {})


def choose_prefill(
    members: Sequence[Member],
    *,
    affinity_key: str | None = None,
    exclude: Collection[ReplicaName] = (),
    in_flight: Mapping[ReplicaName, int] | None = None,
) -> ReplicaName | None:
    """Choose the prefill replica for a prompt; as ``choose_verifier``."""
    return _choose(ready(members, Role.PREFILL), affinity_key, exclude, in_flight or {})


def choose_drafter(
    members: Sequence[Member],
    projection_id: str,
    sessions_by_drafter: Mapping[ReplicaName, int],
    *,
    exclude: Collection[ReplicaName] = (),
    caller: str = "",
) -> ReplicaName | None:
    """Choose the drafter for a session: the least loaded of the same projection.

    Args:
        members: The fleet's members; all but ready drafters are ignored.
        projection_id: Rows of another projection are noise to a drafter.
        sessions_by_drafter: The caller's own sessions on each drafter.
        exclude: Drafters that refused or were lost.
        caller: Name of the asking verifier, so that verifiers break ties differently.
    """
    candidates = [
        member
        for member in ready(members, Role.DRAFTER)
        if member.replica.compatibility.projection_id == projection_id
        and member.replica.name not in exclude
    ]
    if not candidates:
        return None

    def burden(member: Member) -> tuple[int, int]:
        own = sessions_by_drafter.get(member.replica.name, 0)
        reported = member.load.active_sessions if member.load else 0
        return max(own, reported), -_score(caller, member.replica.name)

    return min(candidates, key=burden).replica.name


def ready(members: Sequence[Member], role: Role) -> list[Member]:
    """Members of ``role`` that take new work by both their registration and last report."""
    return [
        member
        for member in members
        if member.replica.role is role
        and member.replica.state is ReplicaState.READY
        and (member.load is None or member.load.state is ReplicaState.READY)
    ]


def _choose(
    candidates: Sequence[Member],
    affinity_key: str | None,
    exclude: Collection[ReplicaName],
    in_flight: Mapping[ReplicaName, int],
) -> ReplicaName | None:
    loads = {
        member.replica.name: _load(member, in_flight)
        for member in candidates
        if member.replica.name not in exclude
    }
    if not loads:
        return None
    if affinity_key is None:
        return min(loads, key=lambda name: (loads[name], name))
    bound = LOAD_BOUND * sum(loads.values()) / len(loads) + LOAD_SLACK
    by_affinity = sorted(loads, key=lambda name: _score(affinity_key, name), reverse=True)
    return next(name for name in by_affinity if loads[name] <= bound)  # one is below the mean


def _load(member: Member, in_flight: Mapping[ReplicaName, int]) -> int:
    """Sessions on a replica; a waiting one counts twice, for it will not start at once."""
    reported = 0
    if member.load is not None:
        reported = member.load.active_sessions + 2 * member.load.waiting_sessions
    return max(reported, in_flight.get(member.replica.name, 0))


def _score(key: str, name: str) -> int:
    digest = blake2b(f"{len(key)}:{key}{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
