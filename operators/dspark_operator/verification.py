"""Verification policies: what manifests ask, what the controller holds, and what follows.

A controller's policies are layers: one without an end, and overrides with a time to live on top of
it, the last of which may be a canary: for a share of the replicas only.  The one without an end is
the manifest's, and so is a canary without an end that a manifest with a share asks for; an override
is somebody's at the control API and wins while it lasts.  So a manifest is only set where nothing
with a time to live lies on top, since setting it would end that: it waits instead.  What somebody
set without an end gives way.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from dspark.core.policy import Policy
from dspark_operator.spec.front import OPERATORS_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One policy of a unit.

    Attributes:
        policy: What was asked.
        author: Who asked: the name of a token.
        reason: Why.
        until_unix_s: When it ends; None: when somebody changes it.
        change: Number of the change that made it.
    """

    policy: Policy
    author: str
    reason: str
    until_unix_s: float | None = None
    change: int = 0

    def __str__(self) -> str:
        end = self.until_unix_s
        until = "" if end is None else f" until {datetime.fromtimestamp(end, UTC):%FT%TZ}"
        return f"{self.author} set {self.policy}{until}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the controller holds for a unit.

    Attributes:
        version: Of the unit's policy; a change names the one that it was decided on.
        layers: Policies that have not ended, the one in force last.
    """

    version: int
    layers: tuple[Layer, ...] = ()

    @property
    def base(self) -> Layer | None:
        """The policy without an end."""
        first = self._whole[0] if self._whole else None
        return first if first is not None and first.until_unix_s is None else None

    @property
    def override(self) -> Layer | None:
        """The policy with an end that is in force."""
        last = self._whole[-1] if self._whole else None
        return last if last is not None and last.until_unix_s is not None else None

    @property
    def lasting(self) -> Layer | None:
        """What has a time to live and a change would end, be it for canaries only."""
        canary = self.canary
        return canary if canary is not None and canary.until_unix_s is not None else self.override

    @property
    def policy(self) -> Policy:
        """The policy in force, for all replicas but canaries."""
        return self._whole[-1].policy if self._whole else Policy()

    @property
    def canary(self) -> Layer | None:
        """The policy of the canaries."""
        return self.layers[-1] if len(self._whole) < len(self.layers) else None

    @property
    def _whole(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.policy.canary_share is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a manifest asks for a unit: the policy, and the reason for the history."""

    policy: Policy
    reason: str

    @property
    def is_canary(self) -> bool:
        """Whether it is for a share of the replicas only."""
        return self.policy.canary_share is not None

    def is_held(self, held: Held) -> bool:
        """Say whether the controller holds it, and as ours."""
        layer = held.canary if self.is_canary else held.base
        return layer is not None and (layer.author, layer.policy, layer.reason) == (
            OPERATORS_TOKEN, self.policy, self.reason,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What manifests ask for a unit.

    Attributes:
        whole: Of all its replicas; None: no manifest speaks of them.
        canary: Of a share of them; None: likewise.
    """

    whole: Wish | None = None
    canary: Wish | None = None


class Act(Enum):
    """What to do about a unit's policy."""

    NOTHING = "nothing"
    SET = "set the manifest's"
    CLEAR = "clear what no manifest asks for any more"
    SET_CANARY = "set the manifest's for a share"
    END_CANARY = "end the canary that no manifest asks for any more"
    WAIT = "wait for the end of an override"


def next_act(asked: Asked, held: Held) -> Act:
    """Decide what happens to a unit's policy; the canary last, since any other change ends it.

    Args:
        asked: By manifests.
        held: By the controller.
    """
    act = _due(asked.whole, held, held.base, Act.SET, Act.CLEAR)
    if act is Act.NOTHING:
        act = _due(asked.canary, held, held.canary, Act.SET_CANARY, Act.END_CANARY)
    return act if act is Act.NOTHING or held.lasting is None else Act.WAIT


def _due(wish: Wish | None, held: Held, layer: Layer | None, to_have: Act, to_end: Act) -> Act:
    if wish is not None:
        return Act.NOTHING if wish.is_held(held) else to_have
    ours = layer is not None and layer.author == OPERATORS_TOKEN
    return to_end if ours else Act.NOTHING
