"""Bounds: a planned table under an operator's policy, and which of the two decides."""

from collections.abc import Sequence
from dataclasses import replace

from dspark.core.budget import ALL, DISABLED, OFF, ContextBucket, verify_all
from dspark.core.policy import Mode, Policy


def bound_table(table: Sequence[ContextBucket], policy: Policy) -> tuple[ContextBucket, ...]:
    """Return the table that is sent where ``table`` was planned and ``policy`` is in force.

    Speculation that the planner switched off stays off: no policy brings it back.
    """
    if policy.mode is Mode.AUTO or table[0].draft_tokens[0] == DISABLED:
        return tuple(
            replace(
                bucket,
                draft_tokens=tuple(bound_entry(entry, policy)[0] for entry in bucket.draft_tokens),
            )
            for bucket in table
        )
    (bucket,) = verify_all()
    return (replace(bucket, draft_tokens=(bound_entry(ALL, policy)[0],)),)


def bound_entry(planned: int, policy: Policy) -> tuple[int, str]:
    """Return the entry under the policy, and what decides it: "plan", or the policy's field.

    Args:
        planned: K >= 0, ALL, OFF or DISABLED as planned.
        policy: In force.
    """
    if planned == DISABLED:
        return DISABLED, "plan"
    if policy.mode is Mode.OFF:
        return DISABLED, "mode off"
    if policy.mode is Mode.VERIFY_ALL:
        return ALL, "mode verify-all"
    if policy.mode is Mode.PINNED:
        assert policy.draft_tokens is not None
        return policy.draft_tokens, "mode pinned"
    tokens = 0 if planned == OFF else planned
    if policy.cap == 0:
        return DISABLED, "cap"  # not OFF, whose probes are verified
    if policy.cap is not None and (tokens == ALL or tokens > policy.cap):
        return policy.cap, "cap"
    if policy.floor is not None and tokens != ALL and tokens < policy.floor:
        return policy.floor, "floor"
    return planned, "plan"
