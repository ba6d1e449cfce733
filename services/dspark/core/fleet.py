"""The fleet as last observed: replicas, pools and their load reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dspark.core.budget import Budget
from dspark.core.curve import Curve
from dspark.core.ids import Epoch, Incarnation, PoolName, ReplicaName, Term
from dspark.core.refinement import StepCell


class Role(Enum):
    """What a process is."""

    PREFILL = "prefill"
    DRAFTER = "drafter"
    VERIFIER = "verifier"
    GATEWAY = "gateway"
    CONTROLLER = "controller"


class ReplicaState(Enum):
    """How far a replica is."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """Everything two processes must agree on before a tensor crosses (see common.proto)."""

    protocol_version: int
    model: str
    target_digest: str
    tokenizer_digest: str
    vocab_size: int
    block_size: int
    target_layer_ids: tuple[int, ...]
    projection_id: str
    kv_dtype: str
    page_tokens: int
    rows_dtype: str

    def mismatch(self, other: "Compatibility", fields: Sequence[str] = ()) -> str | None:
        """Return "field: ours != theirs" for the first field that differs, or None.

        Args:
            other: The other side.
            fields: Which ones count; none named: all.
        """
        for name in fields or self.__slots__:
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return f"{name}: {ours!r} here, {theirs!r} there"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One process of a pool, as it announced itself."""

    name: ReplicaName
    pool: PoolName
    role: Role
    address: str
    incarnation: Incarnation
    state: ReplicaState
    compatibility: Compatibility
    curve: Curve | None = None
    metrics_address: str = ""
    pid: int = 0
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a replica did in its last window; see control.proto for units."""

    replica: ReplicaName
    incarnation: Incarnation
    state: ReplicaState
    window_s: float
    active_sessions: int = 0
    waiting_sessions: int = 0
    free_pages: int = 0
    total_pages: int = 0
    busy_share: float = 0.0
    steps: int = 0
    batch_tokens: int = 0
    committed_tokens: int = 0
    drafted_steps: int = 0
    accepted_draft_tokens: int = 0
    verified_draft_tokens: int = 0
    step_s: float = 0.0
    survivals: tuple[tuple[float, ...], ...] = ()
    budget_epoch: Epoch | None = None
    budget_term: Term | None = None
    draft_outcomes: Mapping[str, int] = field(default_factory=dict)
    wire_bytes: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    mean_context_tokens: float = 0.0
    draft_round_s: float = 0.0
    connected_drafters: int = 0
    step_cells: tuple[StepCell, ...] = ()
    turn_s: float = 0.0
    schedule_s: float = 0.0
    guard_checks: int = 0
    guard_violations: int = 0
    guard_tripped: bool = False
    judged_by_position: tuple[int, ...] = ()
    accepted_by_position: tuple[int, ...] = ()
    confidence_by_position: tuple[float, ...] = ()
    session_steps: int = 0
    queued_prompt_tokens: int = 0
    queue_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A replica with its newest report."""

    replica: Replica
    load: LoadReport | None = None
    seconds_since_report: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool as the controller sees it."""

    name: PoolName
    role: Role
    wanted_replicas: int
    ready_replicas: int
    budget: Budget | None = None
    conditions: tuple[str, ...] = ()
    wanted_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything that watchers of the fleet see, newest version wins."""

    term: Term
    version: int
    members: tuple[Member, ...] = ()
    pools: tuple[Pool, ...] = ()

    def ready(self, role: Role) -> tuple[Member, ...]:
        """Members of ``role`` that take new work, by name."""
        chosen = [
            member
            for member in self.members
            if member.replica.role is role and member.replica.state is ReplicaState.READY
        ]
        return tuple(sorted(chosen, key=lambda member: member.replica.name))
