"""From the spec to the very settings that each process validates when it starts.

Each Serve application is given only what concerns it, so that an edit elsewhere in the spec does
not restart its engines.  Replica counts are not among it for the same reason.
"""

from pydantic import BaseModel, ValidationError

from dspark.config.controller import ControllerSettings
from dspark.config.gateway import GatewayProcess, GatewaySettings
from dspark.config.scaling import ScalingSettings
from dspark.config.system import SystemSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark_operator import names
from dspark_operator.document import Object, part
from dspark_operator.spec.front import CONTROLLER_RESERVED, GATEWAY_RESERVED, OPERATORS_TOKEN
from dspark_operator.spec.model import ModelSource
from dspark_operator.spec.parse import Service, SpecError
from dspark_operator.spec.pools import ENGINE_RESERVED, ENGINE_SETTINGS, Group, Pool
from dspark_operator.spec.settings_view import settings_from

_LARGEST_THREADS = 16

RAY_SETTINGS: Object = {
    "health_check_period_s": 5.0,
    "health_check_timeout_s": 60.0,
    "upscale_delay_s": 5.0,
    "downscale_delay_s": 60.0,
    "stop_margin_s": 30.0,
}
"""For engines that load gigabytes: patient, and slow to give back a GPU."""


def application_name(unit: str) -> str:
    """Return the Serve application that holds one unit's replicas."""
    return f"dspark-{unit}"


def ray_resource(unit: str) -> str:
    """Return the custom Ray resource that pins a unit to its worker group."""
    return f"dspark-{unit}"


def location(source: ModelSource, kind: str) -> str:
    """Return where a process finds the weights: a folder of the pod, or data of the package."""
    return f"builtin:{source.builtin}" if source.builtin else f"{names.MODELS_DIR}/{kind}"


def tls_settings(service: Service) -> Object:
    """Return what every process is told of TLS, as ``{"tls": ...}``; empty without TLS."""
    tls = service.spec.tls
    if tls is None:
        return {}
    files: Object = {
        "certificate": f"{names.TLS_DIR}/tls.crt",
        "key": f"{names.TLS_DIR}/tls.key",
        "authority": f"{names.TLS_DIR}/ca.crt",
        "plain_http": [*tls.plain_http],
    }
    return {"tls": files}


def engine_system(service: Service, pool: Pool, group: Group) -> Object:
    """Return SystemSettings of one unit, as JSON.

    Raises:
        SpecError: The settings do not fit together.
    """
    spec = service.spec
    unit = pool.unit(group)
    engine = settings_from(group.engine, ENGINE_SETTINGS[pool.role], reserved=ENGINE_RESERVED)
    settings: Object = {**_speculation_defaults(service, pool, engine), "pool": unit}
    own: Object = {
        "replicas": 1,
        "min_replicas": 1,
        "max_replicas": 1,
        "num_gpus": group.gpus_per_replica,
        "resources": {ray_resource(unit): 1.0},
        "settings": settings,
    }
    pools: Object = {pool.role: own}
    if spec.model.drafter is None:
        pools["drafter"] = {"replicas": 0}
    if pool.role != "prefill":
        # Not used here, but checked against the page size.
        pools["prefill"] = {"settings": {"chunk_tokens": spec.model.page_tokens}}
    system: Object = {
        "model": {
            **_pair(service),
            "page_tokens": spec.model.page_tokens,
            "rows_dtype": spec.model.rows_dtype,
            "device": group.torch_device,
            "threads": group.threads or _threads(group),
            "min_accepted_length": spec.speculation.min_accepted_length,
        },
        "endpoint": {
            "bind_host": "0.0.0.0",
            "advertise_host": "auto",
            "port_min": spec.network.port_min,
            "port_max": spec.network.port_max,
            "metrics_port_min": spec.network.metrics_port_min,
            "metrics_port_max": spec.network.metrics_port_max,
            "controller": names.controller_address(service),
            **tls_settings(service),
        },
        "pools": pools,
        "ray": dict(RAY_SETTINGS),
    }
    if pool.runtime == "vllm":
        own |= {"engine": "vllm", "vllm": settings_from(pool.vllm or {}, VllmEngineSettings)}
        part(pools, "prefill")["replicas"] = 0
        if pool.vllm_settings.drafts != "pool":
            pools["drafter"] = {"replicas": 0}
        # Not used here, but checked against the engine.
        system["gateway"] = {"speculation_mode": "rejection"}
    _check(SystemSettings, system, f"spec.pools[{pool.name}].groups[{group.name}]")
    return system


def gateway_process(service: Service) -> Object:
    """Return the file that ``python -m dspark.gateway`` reads."""
    given = settings_from(service.spec.gateway.settings, GatewaySettings, reserved=GATEWAY_RESERVED)
    settings: Object = {
        "stop_grace_s": 5.0,
        "drain_s": 120.0,
        **({"speculation_mode": "rejection"} if service.spec.has_vllm() else {}),
        **given,
        "host": "0.0.0.0",
        "port": names.GATEWAY_PORT,
        "controller": names.controller_address(service),
        "fleet_file": f"{names.STATE_DIR}/fleet.json",
        **tls_settings(service),
    }
    pair = _pair(service)
    process: Object = {
        "gateway": settings,
        "model": {"name": pair["name"], "target": pair["target"], "drafter": None},
    }
    _check(GatewayProcess, process, "spec.gateway")
    return process


def controller_process(service: Service, token_sha256: str) -> Object:
    """Return the file that ``python -m dspark.controller`` reads.

    Args:
        service: The service.
        token_sha256: Digest of the operator's own token.
    """
    spec = service.spec
    given = settings_from(
        spec.controller.settings, ControllerSettings, reserved=CONTROLLER_RESERVED
    )
    speculation: Object = {
        "min_samples": spec.speculation.min_samples,
        "activation_sessions": spec.speculation.activation_sessions,
        "budget_ttl_s": spec.speculation.budget_ttl_seconds,
    }
    settings: Object = {
        **{key: value for key, value in speculation.items() if value is not None},
        **given,
        "host": "0.0.0.0",
        "port": names.CONTROLLER_PORT,
        "metrics_port": names.CONTROLLER_METRICS_PORT,
        "api_host": "0.0.0.0",
        "api_port": names.CONTROL_API_PORT,
        "api_tokens": [
            {"name": OPERATORS_TOKEN, "role": "admin", "sha256": token_sha256},
            *(token.model_dump(mode="json") for token in spec.controller.api_tokens),
        ],
        "initial_replicas": {
            pool.unit(group): group.replicas.start for pool, group in spec.units()
        },
        "scaling": _scaling(service),
        "gateway_url": names.gateway_url(service),
        **tls_settings(service),
        **_store(service),
    }
    _check(ControllerSettings, settings, "spec.controller")
    return settings


def drain_s(service: Service, pool: Pool, group: Group) -> float:
    """Return how long replicas of a unit may finish their work after a stop."""
    settings = ENGINE_SETTINGS[pool.role].model_validate(
        settings_from(group.engine, ENGINE_SETTINGS[pool.role], reserved=ENGINE_RESERVED)
    )
    return float(getattr(settings, "drain_s"))  # noqa: B009  # every role's class has it


def _scaling(service: Service) -> Object:
    """Return how the groups scale that follow their load, by unit."""
    return {
        pool.unit(group): {
            **settings_from(group.scaling, ScalingSettings),
            "min_replicas": group.replicas.min,
            "max_replicas": group.replicas.max,
        }
        for pool, group in service.spec.units()
        if group.scaling is not None
    }


def _store(service: Service) -> Object:
    redis = service.spec.controller.store.redis
    if service.spec.controller.store.type == "Embedded" or redis is None:
        return {"store": f"{names.STATE_DIR}/controller.sqlite"}
    scheme = "rediss" if redis.tls else "redis"
    prefix = f"dspark:{service.namespace}:{service.name}"
    return {"store": f"{scheme}://{redis.address}/0", "store_prefix": prefix}


def _pair(service: Service) -> Object:
    model = service.spec.model
    return {
        "name": model.name,
        "target": location(model.target, "target"),
        "drafter": None if model.drafter is None else location(model.drafter, "drafter"),
    }


def _speculation_defaults(service: Service, pool: Pool, engine: Object) -> Object:
    """Return ``engine`` with the service's speculation defaults under it."""
    if pool.role != "verifier":
        return engine
    speculation = service.spec.speculation
    drafting: Object = {
        "deadline_floor_s": speculation.draft_deadline_floor_seconds,
        "deadline_factor": speculation.draft_deadline_factor,
    }
    own = engine.get("drafting")
    drafting = {key: value for key, value in drafting.items() if value is not None}
    drafting.update(own if isinstance(own, dict) else {})
    made = dict(engine)
    if drafting:
        made["drafting"] = drafting
    if speculation.cohorts is not None:
        made.setdefault("cohorts", speculation.cohorts)
    return made


def _threads(group: Group) -> int:
    share = int(group.resources.cpus() / group.replicas_per_pod)
    return min(max(share, 1), _LARGEST_THREADS)


def _check(model: type[BaseModel], settings: Object, where: str) -> None:
    try:
        model.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise SpecError(f"{where}: {key}: {first['msg']}") from None
