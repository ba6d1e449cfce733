"""Budgets <-> wire."""

from dspark.core.budget import Budget, ContextBucket
from dspark.core.ids import Epoch, PoolName, Term
from dspark.wire.v1 import control_pb2


def budget_to_wire(budget: Budget) -> control_pb2.Budget:
    """Convert for sending."""
    return control_pb2.Budget(
        pool=budget.pool,
        term=budget.term,
        epoch=budget.epoch,
        ttl_seconds=budget.ttl_s,
        curve_version=budget.curve_version,
        buckets=[
            control_pb2.Budget.ContextBucket(
                max_context_tokens=bucket.max_context_tokens, draft_tokens=bucket.draft_tokens
            )
            for bucket in budget.buckets
        ],
        reason=budget.reason,
        weights=[
            control_pb2.Budget.PriorityWeight(priority=priority, weight=weight)
            for priority, weight in budget.weights
        ],
    )


def budget_from_wire(message: control_pb2.Budget) -> Budget:
    """Convert and check; raise ValueError naming the bad value."""
    return Budget(
        pool=PoolName(message.pool),
        term=Term(message.term),
        epoch=Epoch(message.epoch),
        ttl_s=message.ttl_seconds,
        curve_version=message.curve_version,
        buckets=tuple(
            ContextBucket(
                max_context_tokens=bucket.max_context_tokens,
                draft_tokens=tuple(bucket.draft_tokens),
            )
            for bucket in message.buckets
        ),
        reason=message.reason,
        weights=tuple((entry.priority, entry.weight) for entry in message.weights),
    )
