"""Pairing: which processes may work together, by what they said about themselves.

The first target in the fleet (a verifier, or a prefill replica while there is none) sets the
reference; a process that disagrees in a field that its role depends on is refused by name.
"""

from collections.abc import Sequence

from dspark.core.fleet import Compatibility, Replica, Role

_SHARED = ("protocol_version", "model", "tokenizer_digest")
_DRAFTING = ("target_digest", "vocab_size", "block_size", "target_layer_ids", "projection_id",
             "rows_dtype")  # fmt: skip
_PAGES = ("kv_dtype", "page_tokens")

FIELDS_BY_ROLE: dict[Role, tuple[str, ...]] = {
    Role.VERIFIER: (*_SHARED, *_DRAFTING, *_PAGES),
    Role.PREFILL: (*_SHARED, *_DRAFTING, *_PAGES),
    Role.DRAFTER: (*_SHARED, *_DRAFTING),
    Role.GATEWAY: _SHARED,
    Role.CONTROLLER: ("protocol_version",),
}
"""What a role must agree on with the reference."""


def reference(replicas: Sequence[Replica]) -> Replica | None:
    """Return the replica that the others are compared with, given in order of registration."""
    for role in (Role.VERIFIER, Role.PREFILL):
        for replica in replicas:
            if replica.role is role:
                return replica
    return None


def mismatch(role: Role, ours: Compatibility, theirs: Compatibility) -> str | None:
    """Return "field: here, there" for the first field that ``role`` depends on, or None.

    Args:
        role: What the newcomer is.
        ours: The reference.
        theirs: The newcomer.
    """
    for name in FIELDS_BY_ROLE[role]:
        here, there = getattr(ours, name), getattr(theirs, name)
        if here != there:
            return f"{name}: {here!r} in the fleet, {there!r} offered"
    return None
