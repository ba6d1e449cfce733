"""Names of things: distinct types so that one is never passed for another."""

from typing import NewType

SessionId = NewType("SessionId", int)
"""A session within one verifier incarnation; never used again."""

Incarnation = NewType("Incarnation", int)
"""A random 63-bit number that a process draws when it starts."""

ReplicaName = NewType("ReplicaName", str)
PoolName = NewType("PoolName", str)
Term = NewType("Term", int)
Epoch = NewType("Epoch", int)
