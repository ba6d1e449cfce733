"""Canaries: the few replicas of a pool that try a policy out."""

from collections.abc import Sequence
from hashlib import sha256

from dspark.core.fleet import Member, ReplicaState
from dspark.core.ids import ReplicaName


def num_canaries(replicas: int, share: float) -> int:
    """Return how many of so many replicas are canaries: at least one, and never all of them."""
    return min(max(round(share * replicas), 1), replicas - 1) if replicas > 1 else 0


def choose_canaries(members: Sequence[Member], share: float) -> frozenset[ReplicaName]:
    """Choose among the members that are ready; the same ones while they are there."""
    ready = [
        member.replica.name for member in members if member.replica.state is ReplicaState.READY
    ]
    ready.sort(key=lambda name: sha256(name.encode()).digest())
    return frozenset(ready[: num_canaries(len(ready), share)])
