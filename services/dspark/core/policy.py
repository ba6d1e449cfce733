"""Policy: what an operator of the service asks of a pool's budget, and how the planner plans."""

from dataclasses import dataclass, fields
from enum import Enum

from dspark.core.cohorts import Cohorts

MAX_DRAFT_TOKENS = 65536
"""Largest number of draft tokens that a policy may name."""


MAX_PROMISE = 1e6
"""Most tokens a second that a session may be promised."""


MAX_WEIGHTS = 16
"""Most priorities that a policy may weigh."""

MAX_WEIGHT = 100.0
"""Largest weight of a priority; its inverse is the smallest."""


class Mode(Enum):
    """Where a pool's budget comes from."""

    AUTO = "auto"  # planned, within the policy's bounds
    PINNED = "pinned"  # a fixed number of draft tokens a step
    OFF = "off"  # no drafting at all
    VERIFY_ALL = "verify-all"  # everything drafted is verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an operator of the service asks of one verifier pool's budget.

    Attributes:
        mode: Where the budget comes from; the bounds below belong to AUTO.
        draft_tokens: With PINNED: draft tokens that a step verifies, at any load.
        floor: A step verifies at least this many draft tokens, if that many were drafted.
        cap: A step verifies at most this many.
        activation_sessions: Below this many sessions in a step everything is verified; None: as
            the planner is set.
        min_tokens_per_s: Tokens a second that each session is promised: an entry that misses it
            gives way to the fastest one, and verifiers that follow their load scale by it.
        priority_weights: (priority, weight), by priority: what a draft of such a session counts
            where a step cannot verify all; 1 where the priority is not listed.
        canary_share: Only for this share of the replicas; the others keep the policy below.
        shadow: The budget is computed, logged and shown, and not sent: verifiers admit by their
            own curve.

    Raises:
        ValueError: The fields contradict each other.
    """

    mode: Mode = Mode.AUTO
    draft_tokens: int | None = None
    floor: int | None = None
    cap: int | None = None
    activation_sessions: int | None = None
    min_tokens_per_s: float | None = None
    priority_weights: tuple[tuple[int, float], ...] = ()
    canary_share: float | None = None
    shadow: bool = False

    def __post_init__(self) -> None:
        if (self.mode is Mode.PINNED) != (self.draft_tokens is not None):
            raise ValueError("draft_tokens belongs to mode pinned, and mode pinned needs it")
        for name in ("draft_tokens", "floor", "cap"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_DRAFT_TOKENS:
                raise ValueError(f"{name} is {value}: it must be 0..{MAX_DRAFT_TOKENS} tokens")
        if self.activation_sessions is not None and not 1 <= self.activation_sessions <= 1024:
            raise ValueError(
                f"activation_sessions is {self.activation_sessions}: it must be 1..1024"
            )
        if self.min_tokens_per_s is not None and not 0 < self.min_tokens_per_s <= MAX_PROMISE:
            raise ValueError(
                f"min_tokens_per_s is {self.min_tokens_per_s}: it must be above 0, "
                f"at most {MAX_PROMISE:g}"
            )
        if self.canary_share is not None and not 0 < self.canary_share < 1:
            raise ValueError(f"canary_share is {self.canary_share}: it must be between 0 and 1")
        if self.priority_weights:
            self._check_weights()
        if self.mode is not Mode.AUTO:
            for name in ("floor", "cap", "activation_sessions", "min_tokens_per_s"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} bounds mode auto; mode is {self.mode.value}")
        if self.floor is not None and self.cap is not None and self.floor > self.cap:
            raise ValueError(f"floor {self.floor} is above cap {self.cap}")

    def _check_weights(self) -> None:
        if self.mode not in {Mode.AUTO, Mode.PINNED}:
            raise ValueError(
                f"priority_weights share out a budget: use mode auto or pinned, not "
                f"{self.mode.value}"
            )
        priorities = [priority for priority, _ in self.priority_weights]
        if priorities != sorted(set(priorities)) or len(priorities) > MAX_WEIGHTS:
            raise ValueError(
                f"priority_weights are for {priorities}: at most {MAX_WEIGHTS} priorities, "
                "each once, growing"
            )
        for priority, weight in self.priority_weights:
            if not -(2**31) <= priority < 2**31:
                raise ValueError(f"priority {priority} is no number of 32 bits")
            if not 1 / MAX_WEIGHT <= weight <= MAX_WEIGHT:
                raise ValueError(
                    f"the weight of priority {priority} is {weight}: it must be "
                    f"{1 / MAX_WEIGHT:g}..{MAX_WEIGHT:g}"
                )

    def __str__(self) -> str:
        words = [self.mode.value]
        for field in fields(self)[1:-1]:
            value = getattr(self, field.name)
            if field.name == "priority_weights":
                words += [f"weight {weight:g} of priority {each}" for each, weight in value]
            elif value is not None:
                words.append(f"{field.name.replace('_', ' ')} {value}")
        return ", ".join([*words, *(["shadow"] if self.shadow else [])])


DEFAULT_POLICY = Policy()
"""In force where nobody asked for anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a best K becomes a table's entry.

    Attributes:
        activation_sessions: Below this many sessions all drafts are verified.
        trim_gain: Trim only for at least this share more Theta than verifying all: forecasts are
            good to some per cent, and what a step costs beside the curve (messages, other
            processes) speaks for fewer and larger ones.
        off_gain: Go without drafts only for at least this share more Theta.
        change_gain: Keep the previous entry unless the new one gives this share more Theta.
        min_tokens_per_s: Of each session: where an entry misses it, the fastest one is taken
            whatever the gains above say.
    """

    activation_sessions: int = 2
    trim_gain: float = 0.03
    off_gain: float = 0.05
    change_gain: float = 0.01
    min_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """How to plan.

    Attributes:
        ttl_s: Life of a budget at the replicas, from receipt.
        renew_s: A budget older than this is sent again; well below ``ttl_s``.
        dwell_s: A table is reconsidered once in this long.
        min_samples: Committed survival vectors needed before anything is trimmed.
        max_sessions: Largest session count in a table.
        max_cohorts: 1 where verifiers never alternate two cohorts.
        rules: When to trim, to stop drafting, and to change.
    """

    ttl_s: float = 5.0
    renew_s: float = 1.5
    dwell_s: float = 2.0
    min_samples: int = 32
    max_sessions: int = 64
    max_cohorts: Cohorts = 2
    rules: Rules = Rules()
