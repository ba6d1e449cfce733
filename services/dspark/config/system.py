"""Settings of a whole system: one file, every role."""

from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, model_validator

from dspark.config.base import Settings
from dspark.config.controller import ControllerSettings
from dspark.config.endpoint import EndpointSettings
from dspark.config.gateway import GatewaySettings
from dspark.config.model import ModelSettings
from dspark.config.pools import Pools, PoolSettings
from dspark.config.ray import RaySettings
from dspark.config.scaling import PoolScaling
from dspark.config.telemetry import TelemetrySettings
from dspark.config.tls import HttpsSettings, TlsSettings, https_of


class SystemSettings(Settings):
    """Everything that ``dspark up`` starts."""

    model: ModelSettings = ModelSettings()
    """Which pair is served."""
    endpoint: EndpointSettings = EndpointSettings()
    """Where replicas listen; ``controller`` follows from the controller's host and port. ``tls`` is
    also that of gateway and controller, unless they have their own."""
    pools: Pools = Pools()
    """Sizes, placement and settings of the three pools."""
    gateway: GatewaySettings = GatewaySettings()
    """The HTTP front; ``controller`` follows from the controller's host and port."""
    controller: ControllerSettings = ControllerSettings()
    """Registry and budgets; a relative ``store`` lies in the state folder."""
    ray: RaySettings = RaySettings()
    """Placement and health."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """Traces and logs of every process."""
    state_dir: Path | None = None
    """Where logs and the description of the running stack are kept; null: the user's state
    folder (``$XDG_STATE_HOME/dspark`` or ``~/.local/state/dspark``)."""
    start_timeout_s: float = Field(default=300.0, gt=0)
    """How long everything may take to become ready."""

    @model_validator(mode="after")
    def _pools_fit_the_model(self) -> Self:
        drafter = self.pools.drafter
        if self.model.drafter is None and drafter.replicas > 0:
            raise ValueError(
                f"pools.drafter.replicas is {drafter.replicas} but model.drafter is null: "
                "name a drafter or set pools.drafter.replicas to 0"
            )
        chunk, page = self.pools.prefill.settings.chunk_tokens, self.model.page_tokens
        if chunk % page:
            raise ValueError(
                f"pools.prefill.settings.chunk_tokens must be a multiple of model.page_tokens, "
                f"and {chunk} is not one of {page}"
            )
        return self

    @model_validator(mode="after")
    def _the_rest_fits_vllm(self) -> Self:
        verifier = self.pools.verifier
        if verifier.engine == "native":
            return self
        drafts, prefill = verifier.engine_settings.drafts, self.pools.prefill.replicas
        if self.model.paced is not None:
            raise ValueError("model.paced is for our own engine: say pools.verifier.engine: native")
        if prefill > 0:
            raise ValueError(
                f"pools.prefill.replicas is {prefill}, and vLLM runs prompts itself: set it to 0"
            )
        if drafts != "none" and self.model.drafter is None:
            raise ValueError(
                f"pools.verifier.vllm.drafts is {drafts!r} but model.drafter is null: "
                "name a drafter or set drafts to none"
            )
        if drafts != "pool" and self.pools.drafter.replicas > 0:
            raise ValueError(
                f"pools.drafter.replicas is {self.pools.drafter.replicas}, and "
                f"pools.verifier.vllm.drafts {drafts!r} asks no drafter pool: set replicas to 0"
            )
        if drafts == "colocated" and self.model_of(verifier).device == "cpu":
            raise ValueError(
                "pools.verifier.vllm.drafts colocated is vLLM's own dspark method, which needs a "
                "GPU (Triton): set pools.verifier.device to cuda, or drafts to pool"
            )
        if self.gateway.speculation_mode == "coupled":
            raise ValueError(
                "gateway.speculation_mode is coupled, and vLLM judges drafts by rejection only: "
                "set it to rejection"
            )
        return self

    def with_ports(
        self,
        *,
        controller_port: int,
        metrics_port: int,
        api_port: int,
        gateway_port: int,
        state_dir: Path,
    ) -> Self:
        """Return a copy in which every address, and every file of TLS, is definite.

        Args:
            controller_port: Port that the controller will listen on.
            metrics_port: Port of its Prometheus endpoint.
            api_port: Port of its control API.
            gateway_port: Port that the gateway will listen on.
            state_dir: Existing folder for logs and state.
        """
        store = self.controller.store
        shared = self.endpoint.tls
        gateway_tls = _absolute(self.gateway.tls or shared)
        gateway_https = _absolute(self.gateway.https)
        controller = self.controller.model_copy(
            update={
                "tls": _absolute(self.controller.tls or shared),
                "https": _absolute(self.controller.https),
                "port": controller_port,
                "metrics_port": metrics_port,
                "api_port": api_port,
                "store": _placed(store, state_dir),
                "initial_replicas": self.wanted() | self.controller.initial_replicas,
                "scaling": self._scaling() | self.controller.scaling,
            }
        )
        if "gateway_url" not in controller.model_fields_set:
            shown = https_of("gateway", gateway_tls, gateway_https)
            scheme = "http" if shown is None else "https"
            url = f"{scheme}://{_reachable(self.gateway.host)}:{gateway_port}"
            update = {
                "gateway_url": url,
                "gateway_certificate": None if shown is None else shown.certificate,
            }
            controller = controller.model_copy(update=update)
        reached_at = f"{_reachable(controller.host)}:{controller_port}"

        def follow(given: EndpointSettings | GatewaySettings) -> dict[str, object]:
            explicit = "controller" in given.model_fields_set
            return {} if explicit else {"controller": reached_at}

        gateway_update = {
            **follow(self.gateway),
            "port": gateway_port,
            "tls": gateway_tls,
            "https": gateway_https,
            "fleet_file": self.gateway.fleet_file or str(state_dir / "fleet.json"),
        }
        return self.model_copy(
            update={
                "controller": controller,
                "endpoint": self.endpoint.model_copy(
                    update={**follow(self.endpoint), "tls": _absolute(shared)}
                ),
                "gateway": self.gateway.model_copy(update=gateway_update),
                "state_dir": state_dir,
            }
        )

    def wanted(self) -> dict[str, int]:
        """Return the configured replicas by pool name."""
        pools = (self.pools.prefill, self.pools.drafter, self.pools.verifier)
        return {pool.settings.pool: pool.replicas for pool in pools}

    def _scaling(self) -> dict[str, PoolScaling]:
        """Return how the pools scale that follow their load, by pool name."""
        return {
            pool.settings.pool: PoolScaling(
                **pool.scaling.model_dump(),
                min_replicas=pool.min_replicas,
                max_replicas=pool.max_replicas,
            )
            for pool in (self.pools.prefill, self.pools.drafter, self.pools.verifier)
            if pool.scaling is not None
        }

    def model_of(self, pool: PoolSettings) -> ModelSettings:
        """Return the model settings with the pool's own device and threads."""
        own = {"device": pool.device, "threads": pool.threads}
        update = {key: value for key, value in own.items() if value is not None}
        return self.model.model_copy(update=update)


def _placed(store: str, state_dir: Path) -> str:
    """Return a store with a relative file put into the state folder."""
    return store if store == "memory" or "://" in store else str(state_dir / store)


Files = TypeVar("Files", HttpsSettings, TlsSettings)


def _absolute(files: Files | None) -> Files | None:
    return None if files is None else files.absolute()


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in {"0.0.0.0", "::"} else host
