"""Asks: what may be asked of the control API; nonsense is refused here."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from dspark.core.policy import (
    MAX_DRAFT_TOKENS,
    MAX_PROMISE,
    MAX_WEIGHT,
    MAX_WEIGHTS,
    Mode,
    Policy,
)

Tokens = Annotated[int, Field(ge=0, le=MAX_DRAFT_TOKENS)]
ModeName = Literal["auto", "pinned", "off", "verify-all"]


def _said(text: str) -> str:
    """Return a reason without the blanks around it; what is too long with them is too long."""
    told = text.strip()
    if not told:
        raise ValueError("say why, in words")
    return told


Reason = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_said)]


class Shape(BaseModel):
    """What all bodies share: exact JSON types, and unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class PriorityWeight(Shape):
    """What drafts of requests of one priority count."""

    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    """Of requests: their field ``priority``, 0 where they do not say."""
    weight: Annotated[float, Field(ge=1 / MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)]
    """Against 1."""


class PolicyShape(Shape):
    """What is asked of a pool's budget."""

    mode: ModeName = "auto"
    """auto: planned, within the bounds below; pinned: draft_tokens at any load; off: no drafting;
    verify-all: everything drafted is verified."""
    draft_tokens: Tokens | None = None
    """With mode pinned: draft tokens that a step verifies."""
    floor: Tokens | None = None
    """With mode auto: a step verifies at least so many draft tokens."""
    cap: Tokens | None = None
    """With mode auto: a step verifies at most so many draft tokens."""
    activation_sessions: Annotated[int, Field(ge=1, le=1024)] | None = None
    """With mode auto: below so many sessions in a step everything is verified."""
    min_tokens_per_s: Annotated[float, Field(gt=0, le=MAX_PROMISE, allow_inf_nan=False)] | None = (
        None
    )
    """With mode auto: tokens a second that each session is promised."""
    priority_weights: Annotated[list[PriorityWeight], Field(max_length=MAX_WEIGHTS)] = []
    """What drafts of requests of a priority count where a step cannot verify all; 1 where it is
    not listed. By growing priority, with mode auto or pinned."""
    canary_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    """Only for this share of the pool's replicas, one at least; the others keep what is in
    force."""
    shadow: bool = False
    """Compute, log and show the budget, and do not send it (role admin)."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "PolicyShape":
        self.policy()
        return self

    def policy(self) -> Policy:
        """Return it as the planner knows it; raise ValueError where it contradicts itself."""
        fields = self.model_dump()
        weights = tuple((each.priority, each.weight) for each in self.priority_weights)
        return Policy(**{**fields, "mode": Mode(self.mode), "priority_weights": weights})

    @classmethod
    def of(cls, policy: Policy) -> "PolicyShape":
        """Return a policy as a body."""
        return cls(
            mode=policy.mode.value,
            draft_tokens=policy.draft_tokens,
            floor=policy.floor,
            cap=policy.cap,
            activation_sessions=policy.activation_sessions,
            min_tokens_per_s=policy.min_tokens_per_s,
            priority_weights=[
                PriorityWeight(priority=priority, weight=weight)
                for priority, weight in policy.priority_weights
            ],
            canary_share=policy.canary_share,
            shadow=policy.shadow,
        )


class SetPolicy(Shape):
    """A policy to put in force."""

    policy: PolicyShape
    """What to put in force."""
    reason: Reason
    """Why; it is kept in the history."""
    ttl_s: Annotated[float, Field(ge=1, le=30 * 86400, allow_inf_nan=False)] | None = None
    """Seconds until the previous policy returns; absent: until somebody changes it."""


class RollBack(Shape):
    """A change to undo."""

    reason: Reason
    """Why."""
    change: Annotated[int, Field(ge=1)] | None = None
    """Its number; absent: the last one that nobody undid."""


class SetReplicas(Shape):
    """A number of replicas to want."""

    replicas: Annotated[int, Field(ge=0, le=10_000)]
    """How many; the pool has them within its limits."""
    reason: Reason
    """Why."""


class WhatIf(Shape):
    """What to suppose; what is absent stays as it is."""

    policy: PolicyShape | None = None
    """Of the pool."""
    replicas: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Of the pool."""
    sessions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """In the whole pool."""


class DryRun(BaseModel):
    """Query of every change."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    dry_run: bool = False
    """Only say what would happen."""


class ClearQuery(DryRun):
    """Query of a clearing."""

    reason: Reason
    """Why; it is kept in the history."""


class ReleaseQuery(BaseModel):
    """Query of a wish that is taken back."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    reason: Reason
    """Why."""


class HistoryQuery(BaseModel):
    """Query of the history."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    pool: Annotated[str, Field(max_length=200)] | None = None
    """Only of this pool."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """At most so many."""
    before: Annotated[int, Field(ge=1)] | None = None
    """Only changes before this number: the next page."""


class NoQuery(BaseModel):
    """Query of everything else."""

    model_config = ConfigDict(extra="forbid")


class TrendQuery(BaseModel):
    """Query of the trend."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    after: Annotated[int, Field(ge=0)] = 0
    """Only samples with a higher number."""


class TryOut(Shape):
    """A request to see drafting at work; small by design."""

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    """Text to go on from."""
    max_tokens: Annotated[int, Field(ge=1, le=256)] = 96
    """Most tokens to generate."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """0 for greedy."""
