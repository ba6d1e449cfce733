"""The spec of a VerificationPolicy: the control API's policy, as a manifest."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dspark.core.policy import (
    MAX_DRAFT_TOKENS,
    MAX_PROMISE,
    MAX_WEIGHT,
    MAX_WEIGHTS,
    Mode,
    Policy,
)
from dspark_operator.spec.base import Name, ObjectName, Part, list_map, refuse_repeated, rules

_PINNED = "draftTokens belongs to mode Pinned, and mode Pinned needs it"
_AUTO = "floor, cap, activationSessions and minTokensPerSecond belong to mode Auto"
_WEIGHTS = "priorityWeights share out a budget: they belong to modes Auto and Pinned"
_BOUNDS = "floor must not be above cap"
_GROUP = "groupName needs poolName"

_MODES = {
    "Auto": Mode.AUTO,
    "Pinned": Mode.PINNED,
    "Off": Mode.OFF,
    "VerifyAll": Mode.VERIFY_ALL,
}


class PriorityWeight(Part):
    """What drafts of requests of one priority count."""

    priority: int = Field(ge=-(2**31), lt=2**31)
    """Of requests: their field ``priority``, 0 where they do not say."""
    weight: float = Field(ge=1 / MAX_WEIGHT, le=MAX_WEIGHT)
    """Against 1."""


class PolicySpec(Part):
    """What is asked of the verification budget of a service."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("(self.mode == 'Pinned') == has(self.draftTokens)", _PINNED),
            (
                "self.mode == 'Auto' || "
                "!(has(self.floor) || has(self.cap) || has(self.activationSessions) || "
                "has(self.minTokensPerSecond))",
                _AUTO,
            ),
            (
                "!has(self.priorityWeights) || self.priorityWeights.size() == 0 || "
                "self.mode in ['Auto', 'Pinned']",
                _WEIGHTS,
            ),
            ("!has(self.floor) || !has(self.cap) || self.floor <= self.cap", _BOUNDS),
            ("!has(self.groupName) || has(self.poolName)", _GROUP),
        )
    )
    service_name: ObjectName
    """DSparkService in the same namespace."""
    pool_name: Name | None = None
    """Verifier pool; absent: all of them."""
    group_name: Name | None = None
    """Group of the pool; absent: all of them."""
    mode: Literal["Auto", "Pinned", "Off", "VerifyAll"] = "Auto"
    """Auto: planned, within the bounds below.  Pinned: ``draftTokens`` at any load.  Off: no
    drafting.  VerifyAll: everything drafted is verified."""
    draft_tokens: int | None = Field(default=None, ge=0, le=MAX_DRAFT_TOKENS)
    """With mode Pinned: draft tokens that a step verifies."""
    floor: int | None = Field(default=None, ge=0, le=MAX_DRAFT_TOKENS)
    """With mode Auto: a step verifies at least so many draft tokens."""
    cap: int | None = Field(default=None, ge=0, le=MAX_DRAFT_TOKENS)
    """With mode Auto: a step verifies at most so many draft tokens."""
    activation_sessions: int | None = Field(default=None, ge=1, le=1024)
    """With mode Auto: below so many sessions in a step everything is verified."""
    min_tokens_per_second: float | None = Field(default=None, gt=0, le=MAX_PROMISE)
    """With mode Auto: what each session is promised; verifiers that follow their load scale by
    it."""
    priority_weights: list[PriorityWeight] = Field(
        default=[], max_length=MAX_WEIGHTS, json_schema_extra=list_map("priority")
    )
    """With modes Auto and Pinned: what drafts of requests of a priority count where a step cannot
    verify all; 1 where it is not listed."""
    canary_share: float | None = Field(default=None, gt=0, lt=1)
    """Only for this share of each group's replicas, one at least and never all; the others keep
    what is in force.  It lies beside the manifest for all of them."""
    shadow: bool = False
    """Compute, log and show the budget, and do not send it: verifiers admit by their own curve."""
    reason: str = Field(default="", max_length=200)
    """Why; it is kept in the controller's history."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.mode == "Pinned") != (self.draft_tokens is not None):
            raise ValueError(_PINNED)
        bounds = (self.floor, self.cap, self.activation_sessions, self.min_tokens_per_second)
        if self.mode != "Auto" and any(bound is not None for bound in bounds):
            raise ValueError(_AUTO)
        if self.floor is not None and self.cap is not None and self.floor > self.cap:
            raise ValueError(_BOUNDS)
        if self.group_name is not None and self.pool_name is None:
            raise ValueError(_GROUP)
        if self.priority_weights and self.mode not in ("Auto", "Pinned"):
            raise ValueError(_WEIGHTS)
        refuse_repeated("priorityWeights", (str(w.priority) for w in self.priority_weights))
        return self

    def policy(self) -> Policy:
        """Return what the controller is asked for."""
        return Policy(
            mode=_MODES[self.mode],
            draft_tokens=self.draft_tokens,
            floor=self.floor,
            cap=self.cap,
            activation_sessions=self.activation_sessions,
            min_tokens_per_s=self.min_tokens_per_second,
            priority_weights=tuple(sorted((w.priority, w.weight) for w in self.priority_weights)),
            canary_share=self.canary_share,
            shadow=self.shadow,
        )
