"""Answers: the bodies that the control API sends, as its OpenAPI page documents them."""

from typing import Literal

from dspark.controller.api.asks import PolicyShape, Shape

Entry = int | Literal["all", "off"]
"""Draft tokens of a step, everything, or no drafting."""


class LayerShape(Shape):
    """A policy with its end."""

    change: int
    """The change that made it."""
    policy: PolicyShape
    """What was asked."""
    author: str
    """Who asked."""
    reason: str
    """Why."""
    until_unix_s: float | None
    """When it ends; null: when somebody changes it."""


class PolicyState(Shape):
    """What is in force in a pool."""

    pool: str
    """The pool."""
    version: int
    """Number of its last change, which is the etag; 0: nobody ever changed it."""
    policy: PolicyShape
    """In force, for all replicas but canaries."""
    layers: list[LayerShape]
    """Where it comes from, the one in force last; what is below returns when it ends."""


class ChangeShape(Shape):
    """One entry of the history."""

    change: int
    """Its number."""
    pool: str
    """Whose policy."""
    action: Literal["set", "clear", "rollback", "expire"]
    """What was done."""
    policy: PolicyShape
    """In force afterwards."""
    author: str
    """Who."""
    reason: str
    """Why."""
    unix_s: float
    """When."""
    ttl_s: float | None
    """Its life; null: no end."""
    undoes: int | None
    """The change that a rollback undid."""


class History(Shape):
    """Changes, newest first."""

    changes: list[ChangeShape]
    """One page of them."""


class BucketShape(Shape):
    """One row of a budget table."""

    max_context_tokens: int
    """Largest mean context it is for."""
    draft_tokens: list[Entry]
    """By sessions in the step, from 1; the last one also for more."""


class TableShape(Shape):
    """A budget table of one class of replicas."""

    curve_version: str
    """The class; empty: replicas without a curve."""
    table: list[BucketShape]
    """Draft tokens by context and sessions."""


class Changed(Shape):
    """What a change did, or would do."""

    dry_run: bool
    """Whether it was only tried out."""
    change: ChangeShape
    """As it is in the history, or would be."""
    tables: list[TableShape]
    """The budgets that follow from it now."""


class WhyShape(Shape):
    """Why a class of replicas has the budget that it has."""

    curve_version: str
    """The class; empty: replicas without a curve."""
    device: str
    """What its curve was measured on."""
    sent: bool
    """False in shadow."""
    canaries: list[str]
    """The replicas that this is for; empty: all those of the class that are no canaries."""
    term: int
    """Of the controller that issued it."""
    epoch: int
    """Grows with every budget."""
    table: list[BucketShape]
    """As sent."""
    planned: list[BucketShape]
    """Before the policy."""
    reason: str
    """In one sentence."""
    sessions: int
    """Mean sessions in a step now."""
    context_tokens: float
    """Their mean context now."""
    cohorts: int
    """Halves that steps alternate between: 1 or 2."""
    entry: Entry
    """The table's entry for that step."""
    planned_entry: Entry
    """The same before the policy."""
    binding: str
    """What decides the entry."""
    committed_rounds: int
    """Rounds that acceptance is known from."""
    draft_round_ms: float
    """A draft round as the replicas see it."""
    theta: list[tuple[int, float]]
    """(draft tokens of the step, tokens a second of the replica); empty without a curve."""
    off_tokens_per_s: float | None
    """Tokens a second of the replica without drafting."""


class BudgetShape(Shape):
    """A pool's budget and why it is so."""

    pool: str
    """The pool."""
    policy: PolicyShape
    """In force."""
    classes: list[WhyShape]
    """One for each kind of replica in it."""


class ReplicaShape(Shape):
    """One process of a pool."""

    name: str
    node: str
    address: str
    state: Literal["starting", "ready", "draining"]
    curve_version: str | None
    seconds_since_report: float
    active_sessions: int
    waiting_sessions: int
    free_pages: int
    total_pages: int
    busy_share: float
    tokens_per_s: float
    verified_tokens_per_step: float | None
    budget_epoch: int | None
    connected_drafters: int | None
    """That it works with, by its newest report; null: none came yet."""


class PoolShape(Shape):
    """One pool as the controller sees it now."""

    name: str
    role: Literal["prefill", "drafter", "verifier", "gateway", "controller"]
    wanted_replicas: int
    wanted_because: str
    """Why so many are wanted."""
    ready_replicas: int
    conditions: list[str]
    """What holds it back."""
    tokens_per_s: float
    """Committed, by the newest reports."""
    accepted_length: float | None
    """tau of rounds with a draft, by the newest reports."""
    verified_tokens_per_step: float | None
    """Draft tokens verified in a step, by the newest reports."""
    survival: list[float]
    """Mean survival by position as stated by confidences, of the rounds that are known."""
    acceptance: list[float]
    """Share of drafts accepted by position, of those verified with all before them accepted."""
    confidence: list[float]
    """Mean confidence of the same drafts."""
    busy_share: float | None
    """Mean share of the time that replicas spent in steps; the rest is the bubble."""
    policy: PolicyShape | None
    """In force; null where there is no budget."""
    version: int
    """Of the policy."""
    budget: str | None
    """The budget in one sentence."""
    drafting: bool | None
    """Whether the budget has drafts at any load; null: there is none."""
    replicas: list[ReplicaShape]
    """Its processes."""


class ReplicasState(Shape):
    """How many replicas a pool is to have, and who asked."""

    pool: str
    """The pool."""
    wanted: int
    """Now."""
    why: str
    """Why so many."""
    ready: int
    """That take new work."""
    asked: int | None
    """What somebody asked for; null: the load decides, or the configured number."""
    author: str | None
    """Who asked."""
    reason: str | None
    """Why they did."""


class FleetShape(Shape):
    """Everything that is known now."""

    term: int
    """Of the controller."""
    pools: list[PoolShape]
    """By name."""


class CurvePointShape(Shape):
    """One point of a cost curve."""

    context_tokens: int
    sessions: int
    batch_tokens: int
    step_ms: float


class CurveShape(Shape):
    """What a step costs a class of replicas."""

    pool: str
    version: str
    device: str
    problem: str | None
    """Why it cannot be trusted; null: it can."""
    points: list[CurvePointShape]


class Curves(Shape):
    """The curves that budgets are computed from."""

    curves: list[CurveShape]


class Outlook(Shape):
    """What a pool does, by curves and recorded statistics."""

    replicas: int
    sessions: int
    tokens_per_s: float
    """Committed by the whole pool."""
    tokens_per_s_per_user: float
    """By one session."""
    accepted_length: float
    """tau: tokens that a session commits in a round."""
    verified_tokens_per_step: list[Entry]
    """The budget's entry, for each class of replicas."""
    promise_kept: bool | None
    """Whether each session gets the policy's ``min_tokens_per_s``; null: it promises nothing."""


class Outlooks(Shape):
    """Now, and as supposed."""

    now: Outlook
    supposed: Outlook
    gain: float
    """Share of tokens a second that is won, or lost below 0."""


class SampleShape(Shape):
    """What a verifier pool did at one moment."""

    number: int
    """Grows with each sample of this process."""
    unix_s: float
    """When."""
    pool: str
    """Whose."""
    entries: dict[str, Entry]
    """The budget's entry at that load, by class of replicas."""
    accepted_length: float | None
    """tau of rounds with a draft."""
    verified_tokens_per_step: float | None
    """Draft tokens verified in a step."""
    tokens_per_s: float
    """Committed."""
    active_sessions: int
    """Being decoded."""
    waiting_sessions: int
    """Waiting for pages."""
    batch_tokens: float | None
    """In a step, in the mean."""
    step_ms: float | None
    """Duration of a step, in the mean."""


class TrendShape(Shape):
    """The last minutes, oldest first."""

    period_s: float
    """Between two samples of a pool."""
    newest: int
    """Number of the newest sample; below what was asked for: the process was restarted."""
    samples: list[SampleShape]
    """As far as they are kept."""


class TokenShape(Shape):
    """A configured token."""

    name: str
    role: Literal["viewer", "operator", "admin"]


class TokenList(Shape):
    """Who may use this API."""

    tokens: list[TokenShape]


class ErrorDetail(Shape):
    """What went wrong."""

    status: int
    code: str
    message: str
    hint: str
    """What to do about it."""


class ErrorShape(Shape):
    """Every error has this body."""

    error: ErrorDetail
