"""What a user may say about pods: size and place, and nothing that weakens their isolation."""

from typing import Literal

from pydantic import Field

from dspark_operator.spec.base import ObjectName, Part, Quantity


class Resources(Part):
    """CPU, memory and devices of one pod."""

    requests: dict[str, Quantity] = Field(default={}, max_length=16)
    """What the scheduler reserves."""
    limits: dict[str, Quantity] = Field(default={}, max_length=16)
    """What may not be exceeded; devices such as nvidia.com/gpu stand here."""

    def gpus(self) -> int:
        """GPUs of one pod, of whichever vendor."""
        return sum(int(count) for name, count in self.limits.items() if name.endswith("/gpu"))

    def cpus(self) -> float:
        """CPUs of one pod; 1 where nothing is said."""
        given = self.limits.get("cpu", self.requests.get("cpu", "1"))
        return cpus(given)


def cpus(given: str | int) -> float:
    """Return a CPU quantity in cores.

    Raises:
        ValueError: It is no CPU quantity.
    """
    written = str(given)
    return float(written[:-1]) / 1000 if written.endswith("m") else float(written)


class Toleration(Part):
    """A taint that these pods put up with."""

    key: str | None = None
    """Taint key; absent with operator Exists: every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """How the value is compared."""
    value: str | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; absent: all of them."""
    toleration_seconds: int | None = None
    """How long NoExecute is put up with."""


class TopologySpread(Part):
    """How pods of one group spread over the cluster."""

    topology_key: str = "topology.kubernetes.io/zone"
    """Node label whose values are the domains."""
    max_skew: int = Field(default=1, ge=1)
    """Largest difference of pod counts between two domains."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """What to do where it cannot be had."""


class Placement(Part):
    """Where pods go."""

    node_selector: dict[str, str] = Field(default={}, max_length=32)
    """Node labels that are required."""
    tolerations: list[Toleration] = Field(default=[], max_length=32)
    """Taints that are put up with."""
    topology_spread: list[TopologySpread] = Field(default=[], max_length=4)
    """How pods spread; absent: Kubernetes' default."""
    priority_class_name: ObjectName | None = None
    """Priority class of the pods."""
    runtime_class_name: ObjectName | None = None
    """Runtime class of the pods."""
