"""How many replicas a pool has, where they go, and the settings that each of them gets."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dspark.config.base import Settings
from dspark.config.drafter import DrafterSettings
from dspark.config.prefill import PrefillSettings
from dspark.config.scaling import ScalingSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm_engine import VllmEngineSettings

NATIVE_ONLY = (
    "num_pages",
    "local_prefill_tokens",
    "prefill_chunk_tokens",
    "cohorts",
    "prefill_timeout_s",
    "prefill_attempts",
    "guard",
)
"""What a verifier setting says to our own engine alone."""


class PoolSettings(Settings):
    """Size and placement of a pool; what its replicas do is in ``settings``."""

    replicas: int = Field(default=1, ge=0)
    """Replicas at start; afterwards the controller's wish counts."""
    scaling: ScalingSettings | None = None
    """How the pool follows its load; null: it has ``replicas``, or as many as somebody asks for."""
    min_replicas: int = Field(default=1, ge=0)
    """Never fewer; 0 lets the pool be emptied."""
    max_replicas: int = Field(default=2, ge=1)
    """Never more."""
    num_cpus: float = Field(default=0.1, ge=0)
    """Ray's CPUs that a replica reserves (a bookkeeping number, not a limit)."""
    num_gpus: float = Field(default=0.0, ge=0)
    """Ray's GPUs that a replica reserves."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that a replica reserves: which kind of node it goes to."""
    device: str | None = None
    """Torch device of this pool; absent: the model's."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of this pool's engines; absent: the model's."""

    @model_validator(mode="after")
    def _bounds_hold(self) -> Self:
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(
                f"replicas must lie between min_replicas and max_replicas, and {self.replicas} "
                f"is not in {self.min_replicas}..{self.max_replicas}"
            )
        return self


class PrefillPool(PoolSettings):
    """The prefill pool; without a replica, verifiers run prompts themselves."""

    min_replicas: int = Field(default=0, ge=0)
    """Never fewer; 0 lets the pool be emptied."""
    settings: PrefillSettings = PrefillSettings()
    """What a prefill replica does."""


class DrafterPool(PoolSettings):
    """The drafter pool; without a replica, sessions decode plainly."""

    min_replicas: int = Field(default=0, ge=0)
    """Never fewer; 0 lets the pool be emptied."""
    settings: DrafterSettings = DrafterSettings()
    """What a drafter replica does."""


class VerifierPool(PoolSettings):
    """The verifier pool: it owns the sessions."""

    min_replicas: int = Field(default=1, ge=1)
    """Never fewer; without a verifier nothing is served."""
    replicas: int = Field(default=1, ge=1)
    """Replicas at start; afterwards the controller's wish counts."""
    engine: Literal["native", "vllm"] = "native"
    """What runs the target: our own engine, or vLLM, which keeps its own scheduler, KV cache and
    sampler and is drafted for by the same drafters under the same budgets."""
    vllm: VllmEngineSettings | None = None
    """With ``engine: vllm``: how it is run; null takes every default."""
    settings: VerifierSettings = VerifierSettings()
    """What a verifier replica does."""

    @model_validator(mode="after")
    def _engine_and_settings_agree(self) -> Self:
        if self.engine == "native":
            if self.vllm is not None:
                raise ValueError(
                    "vllm is set, and engine is native: say engine: vllm, or remove it"
                )
            return self
        default = VerifierSettings()
        for name in NATIVE_ONLY:
            if getattr(self.settings, name) != getattr(default, name):
                raise ValueError(
                    f"settings.{name} says nothing to engine vllm, which has a scheduler and a KV "
                    "cache of its own (see vllm.engine_args): remove it"
                )
        split = self.engine_settings.tensor_parallel_size
        if split > 1 and self.num_gpus < split:
            raise ValueError(
                f"vllm.tensor_parallel_size {split} needs num_gpus {split} a replica, "
                f"and it is {self.num_gpus:g}"
            )
        return self

    @property
    def engine_settings(self) -> VllmEngineSettings:
        """How vLLM is run, where it is the engine."""
        return self.vllm or VllmEngineSettings()


class Pools(Settings):
    """The three pools; each is a Ray Serve application of its own."""

    prefill: PrefillPool = PrefillPool()
    """Runs prompts."""
    drafter: DrafterPool = DrafterPool()
    """Drafts blocks."""
    verifier: VerifierPool = VerifierPool()
    """Verifies, samples, commits."""
