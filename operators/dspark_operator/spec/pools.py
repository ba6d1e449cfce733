"""Pools and their groups: how many replicas of which role, on which kind of node."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark.config.drafter import DrafterSettings
from dspark.config.pools import NATIVE_ONLY
from dspark.config.prefill import PrefillSettings
from dspark.config.scaling import ScalingSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark_operator.document import Json
from dspark_operator.spec.base import Image, Name, Part, list_map, refuse_repeated, rules
from dspark_operator.spec.pods import Placement, Resources
from dspark_operator.spec.settings_view import manifest_key, settings_from

Role = Literal["prefill", "drafter", "verifier"]

ENGINE_SETTINGS: dict[Role, type[BaseModel]] = {
    "prefill": PrefillSettings,
    "drafter": DrafterSettings,
    "verifier": VerifierSettings,
}
"""What a replica of each role is configured with."""

ENGINE_RESERVED = ("pool",)
"""Engine settings that the operator sets itself."""

_BOUNDS = "min must not be above max, and initial must lie between them"
_VERIFIERS = "a verifier group needs replicas.min of at least 1: without it nothing is served"
_VLLM_VERIFIES = "runtime vllm is for a pool with role verifier"
_VLLM_UNUSED = "vllm is given and runtime is native: say runtime: vllm, or remove it"
_NATIVE_KEYS = tuple(manifest_key(name) for name in NATIVE_ONLY)
_NATIVE_SETTINGS = (
    f"a vLLM pool has no engine settings {', '.join(_NATIVE_KEYS)}: vLLM has a scheduler and a KV "
    "cache of its own, see vllm.engineArgs"
)


def engine_rules() -> tuple[tuple[str, str], ...]:
    """CEL rules: an engine setting of another role is refused, not ignored."""
    keys = {role: {manifest_key(f) for f in cls.model_fields} - {"pool"}
            for role, cls in ENGINE_SETTINGS.items()}  # fmt: skip
    found = []
    for role, known in keys.items():
        foreign = sorted(set().union(*keys.values()) - known)
        none = " && ".join(f"!has(g.engine.{key})" for key in foreign)
        found.append(
            (
                f"self.role != '{role}' || self.groups.all(g, !has(g.engine) || ({none}))",
                f"a {role} pool has no engine settings {', '.join(foreign)}",
            )
        )
    return tuple(found)


def runtime_rules() -> tuple[tuple[str, str], ...]:
    """CEL rules: what is said to another runtime than the pool's is refused, not ignored."""
    none = " && ".join(f"!has(g.engine.{key})" for key in _NATIVE_KEYS)
    return (
        ("self.runtime == 'native' || self.role == 'verifier'", _VLLM_VERIFIES),
        ("self.runtime == 'vllm' || !has(self.vllm)", _VLLM_UNUSED),
        (
            f"self.runtime == 'native' || self.groups.all(g, !has(g.engine) || ({none}))",
            _NATIVE_SETTINGS,
        ),
    )


class Replicas(Part):
    """How many engine replicas a group has."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.min <= self.max && (!has(self.initial) || "
                "(self.min <= self.initial && self.initial <= self.max))",
                _BOUNDS,
            )
        )
    )
    min: int = Field(default=1, ge=0, le=1024)
    """Never fewer."""
    max: int = Field(default=1, ge=1, le=1024)
    """Never more."""
    initial: int | None = Field(default=None, ge=0, le=1024)
    """At start; afterwards the controller's wish counts.  Absent: min, or 1 if min is 0."""

    @model_validator(mode="after")
    def _bounds_hold(self) -> Self:
        if not self.min <= self.start <= self.max:
            raise ValueError(_BOUNDS)
        return self

    @property
    def start(self) -> int:
        """Replicas at start."""
        return max(self.min, 1) if self.initial is None else self.initial


class Group(Placement):
    """Replicas of a pool on one kind of node."""

    name: Name
    """Unique in the pool; usually the kind of node, as ``h200``."""
    replicas: Replicas = Replicas()
    """How many replicas."""
    replicas_per_pod: int = Field(default=1, ge=1, le=64)
    """Replicas that share one pod and its devices."""
    scaling: dict[str, Json] | None = None
    """How the group follows its load, in camelCase, within ``replicas``; ``{}`` takes every
    default; absent: it has the replicas that somebody asked for."""
    resources: Resources = Resources()
    """Of one pod."""
    device: Literal["cpu", "cuda"] | None = None
    """Torch device; absent: cuda where the pod has GPUs."""
    threads: int | None = Field(default=None, ge=1, le=256)
    """CPU threads of one engine; absent: its share of the pod's CPUs, at most 16."""
    engine: dict[str, Json] = Field(default={})
    """Engine settings of the role, in camelCase; absent ones keep the engine's defaults."""

    def pods(self, replicas: int) -> int:
        """Pods that ``replicas`` need."""
        return -(-replicas // self.replicas_per_pod)

    @property
    def gpus_per_replica(self) -> float:
        """GPUs of one replica; less than one where replicas share it."""
        return self.resources.gpus() / self.replicas_per_pod

    @property
    def torch_device(self) -> Literal["cpu", "cuda"]:
        """Torch device of the engines."""
        return self.device or ("cuda" if self.resources.gpus() else "cpu")


class Pool(Part):
    """Replicas of one role."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.role != 'verifier' || self.groups.all(g, g.replicas.min >= 1)", _VERIFIERS),
            *engine_rules(),
            *runtime_rules(),
        )
    )
    name: Name
    """Unique in the service."""
    role: Role
    """What its replicas do; fixed for the life of the pool."""
    runtime: Literal["native", "vllm"] = "native"
    """What runs the target of a verifier pool: our own engine, or vLLM, which is drafted for by the
    same drafters under the same budgets."""
    vllm: dict[str, Json] | None = None
    """With runtime vllm: how it is run, in camelCase; absent: every default."""
    image: Image | None = None
    """Image of this pool's engines, with the same Ray and Python as Ray's head; absent:
    ``images.engine``."""
    groups: list[Group] = Field(min_length=1, max_length=8, json_schema_extra=list_map("name"))
    """One for each kind of node."""

    @model_validator(mode="after")
    def _fits_the_role(self) -> Self:
        refuse_repeated("groups", (group.name for group in self.groups))
        for group in self.groups:
            if self.role == "verifier" and group.replicas.min < 1:
                raise ValueError(f"groups[{group.name}].replicas.min: {_VERIFIERS}")
            try:
                settings_from(group.engine, ENGINE_SETTINGS[self.role], reserved=ENGINE_RESERVED)
            except ValueError as error:
                raise ValueError(f"groups[{group.name}].engine.{error}") from None
            try:
                settings_from(group.scaling or {}, ScalingSettings)
            except ValueError as error:
                raise ValueError(f"groups[{group.name}].scaling.{error}") from None
        return self

    @model_validator(mode="after")
    def _fits_the_runtime(self) -> Self:
        if self.runtime == "native":
            if self.vllm is not None:
                raise ValueError(_VLLM_UNUSED)
            return self
        if self.role != "verifier":
            raise ValueError(_VLLM_VERIFIES)
        try:
            vllm = self.vllm_settings
        except ValueError as error:
            raise ValueError(f"vllm.{error}") from None
        for group in self.groups:
            where = f"groups[{group.name}]"
            if not set(_NATIVE_KEYS).isdisjoint(group.engine):
                raise ValueError(f"{where}.engine: {_NATIVE_SETTINGS}")
            gpus, split = group.gpus_per_replica, vllm.tensor_parallel_size
            if split > 1 and gpus < split:
                raise ValueError(
                    f"{where}.resources: vllm.tensorParallelSize {split} needs {split} GPUs a "
                    f"replica, and it has {gpus:g}"
                )
            if vllm.drafts == "colocated" and group.torch_device == "cpu":
                raise ValueError(f"{where}: vllm.drafts colocated needs a GPU")
        return self

    @property
    def vllm_settings(self) -> VllmEngineSettings:
        """How vLLM is run, where it is the runtime."""
        return VllmEngineSettings.model_validate(settings_from(self.vllm or {}, VllmEngineSettings))

    def unit(self, group: Group) -> str:
        """Return what the controller calls these replicas: for it each group is a pool.

        The group is named even where it is alone, so that a second group changes nothing for it.
        """
        return f"{self.name}-{group.name}"
