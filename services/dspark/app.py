"""Ray: placement, health and scale of the pools.  The only file that imports ray.

Each pool is a Ray Serve application of its own, so that it can be removed alone.  A replica
opens its own gRPC server and registers with the controller; Ray carries no token and sees no
request.  Path: ``dspark up`` -> ``python -m dspark.app`` -> ``build_pool`` -> ``PoolReplica``.

On Kubernetes the same builder is the import path of a Serve configuration:
``import_path: dspark.app:build_pool``, ``args: {pool: drafter, system: {...}}``.
"""

import argparse
import contextlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from dspark.config.drafter import DrafterSettings
from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.pools import DrafterPool, PoolSettings, PrefillPool, VerifierPool
from dspark.config.prefill import PrefillSettings
from dspark.config.system import SystemSettings
from dspark.config.tls import TlsSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark.rpc.credentials import open_credentials
from dspark.rpc.wanted import WantedReplicas

log = logging.getLogger(__name__)

POOLS = ("prefill", "drafter", "verifier")
_STATUS_PERIOD_S = 0.5
_STEADY_STATUS_PERIOD_S = 4.0
"""While nothing changes."""
_RUNNING = "RUNNING"  # Ray Serve's word for an application that is as it was asked to be
_START_ATTEMPTS = 3


class ReplicaHost(Protocol):
    """A replica without Ray: what each pool's ``replica`` module offers."""

    async def start(self) -> None:
        """Load the model, serve, register."""

    async def drain(self) -> None:
        """Leave the fleet and let running work end, bounded."""

    async def stop(self) -> None:
        """End everything."""

    def check_health(self) -> None:
        """Raise when the engine died."""


class FollowPlan:
    """Autoscaling policy: as many replicas as the controller wants.

    Ray Serve calls it in every turn of its control loop, with or without traffic and also at zero
    replicas, so it only reads what a thread keeps up to date.  While the controller
    is unreachable, or has no wish, the present target stays.
    """

    def __init__(self, controller: str, pool: str, tls: Mapping[str, Any] | None = None) -> None:
        settings = None if tls is None else TlsSettings.model_validate(tls)
        self._wanted = WantedReplicas(controller, pool, open_credentials(settings))

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the wish; Ray Serve bounds it by the pool's limits."""
        wanted = self._wanted.newest
        return (context.target_num_replicas if wanted is None else wanted), {}


class PoolReplica:
    """One replica of a pool as Ray Serve holds it."""

    def __init__(self) -> None:
        self._host: ReplicaHost | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Start the host; Ray awaits this before the replica counts as running.

        Not in ``__init__``, which has no running event loop for the gRPC server.
        """
        if self._host is not None:
            raise RuntimeError("settings change by replacing the application, not in place")
        name = serve.get_replica_context().replica_id.unique_id
        host = _build_host(config, name=f"{config['pool']}-{name}")
        await host.start()
        self._host = host

    def check_health(self) -> None:
        """Raise when the engine died: Ray Serve then replaces the replica."""
        if self._host is not None:
            self._host.check_health()

    async def __del__(self) -> None:
        # The only hook that Ray Serve awaits on a replica without handle traffic.
        if self._host is not None:
            await self._host.drain()
            await self._host.stop()


def build_pool(args: Mapping[str, Any]) -> serve.Application:
    """Build the application of one pool.

    Args:
        args: ``pool`` (prefill, drafter or verifier) and ``system`` (SystemSettings as JSON).
    """
    system = SystemSettings.model_validate(args["system"])
    name = str(args["pool"])
    pool = _pool_settings(system, name)
    model = system.model_of(pool)
    config = {
        "pool": name,
        "model": model.model_dump(mode="json"),
        "endpoint": system.endpoint.model_dump(mode="json"),
        "settings": pool.settings.model_dump(mode="json"),
    }
    vllm = _vllm_of(pool)
    if vllm is not None:
        config["vllm"] = vllm.model_dump(mode="json")
    deployment = serve.deployment(
        PoolReplica,
        name=name,
        user_config=config,
        autoscaling_config=AutoscalingConfig(
            # No initial_replicas: Ray Serve would go back to it with every edit of the
            # configuration, through a count that harms streams.
            min_replicas=pool.min_replicas,
            max_replicas=pool.max_replicas,
            upscale_delay_s=system.ray.upscale_delay_s,
            downscale_delay_s=system.ray.downscale_delay_s,
            downscale_to_zero_delay_s=system.ray.downscale_delay_s,
            policy=AutoscalingPolicy(
                policy_function=FollowPlan,
                policy_kwargs={
                    "controller": system.endpoint.controller,
                    "pool": pool.settings.pool,
                    **_tls_of(system.endpoint),
                },
            ),
        ),
        health_check_period_s=system.ray.health_check_period_s,
        health_check_timeout_s=system.ray.health_check_timeout_s,
        graceful_shutdown_timeout_s=pool.settings.drain_s + system.ray.stop_margin_s,
        graceful_shutdown_wait_loop_s=0.1,
        placement_group_bundles=None if vllm is None else _bundles(pool, vllm),
        ray_actor_options={
            "num_cpus": pool.num_cpus,
            "num_gpus": pool.num_gpus,
            "resources": pool.resources,
            "runtime_env": _runtime_env(model, vllm),
        },
    )
    return deployment.bind()


def _vllm_of(pool: PrefillPool | DrafterPool | VerifierPool) -> VllmEngineSettings | None:
    """How vLLM is run in this pool; None where it is not."""
    if isinstance(pool, VerifierPool) and pool.engine == "vllm":
        return pool.engine_settings
    return None


def _bundles(pool: PoolSettings, vllm: VllmEngineSettings) -> list[dict[str, float]] | None:
    """One bundle with all devices of a split target: Ray Serve holds it, and vLLM's workers live
    in it as processes of the replica, for vLLM cannot make a placement group inside an actor."""
    if vllm.tensor_parallel_size == 1:
        return None
    return [{"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}]


def _runtime_env(model: ModelSettings, vllm: VllmEngineSettings | None) -> dict[str, Any]:
    # Before torch is imported, or each engine takes every core of the node.
    variables = {"OMP_NUM_THREADS": str(model.threads)}
    if vllm is None:
        return {"env_vars": variables}
    variables["VLLM_NO_USAGE_STATS"] = "1"
    if model.device == "cpu":
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # replicas may share their cores
    python = {} if vllm.python is None else {"py_executable": str(Path(vllm.python).expanduser())}
    return {"env_vars": variables, **python}


def _tls_of(endpoint: EndpointSettings) -> dict[str, Any]:
    """Return the policy's own part of TLS: Serve's controller asks ours, too."""
    return {} if endpoint.tls is None else {"tls": endpoint.tls.model_dump(mode="json")}


def _pool_settings(system: SystemSettings, name: str) -> PrefillPool | DrafterPool | VerifierPool:
    if name not in POOLS:
        raise ValueError(f"pool is one of {', '.join(POOLS)}, not {name!r}")
    pool: PrefillPool | DrafterPool | VerifierPool = getattr(system.pools, name)
    return pool


def _build_host(config: Mapping[str, Any], *, name: str) -> ReplicaHost:
    """Construct the pool's host; its module, and torch with it, is imported only here."""
    model = ModelSettings.model_validate(config["model"])
    endpoint = EndpointSettings.model_validate(config["endpoint"])
    if endpoint.advertise_host == "auto":
        here = ray.util.get_node_ip_address()
        endpoint = endpoint.model_copy(update={"advertise_host": here})
    match config["pool"]:
        case "prefill":
            from dspark.prefill.replica import PrefillReplica

            prefill = PrefillSettings.model_validate(config["settings"])
            return PrefillReplica(model, endpoint, prefill, name=name)
        case "drafter":
            from dspark.drafter.replica import DrafterReplica

            drafter = DrafterSettings.model_validate(config["settings"])
            return DrafterReplica(model, endpoint, drafter, name=name)
        case _:
            verifier = VerifierSettings.model_validate(config["settings"])
            if "vllm" in config:
                from dspark.engines.vllm.replica import VllmReplica

                vllm = VllmEngineSettings.model_validate(config["vllm"])
                return VllmReplica(model, endpoint, verifier, vllm, name=name)
            from dspark.verifier.replica import VerifierReplica

            return VerifierReplica(model, endpoint, verifier, name=name)


def run(system: SystemSettings, *, scratch: Path, status: Path, stop: threading.Event) -> None:
    """Start or join Ray, deploy the pools, publish their state until ``stop``, then drain.

    Args:
        system: Settings with every address definite.
        scratch: Short path for Ray's sockets and logs (a socket path holds 107 bytes).
        status: File that receives ``{pool: {state, message, replicas}}`` whenever it changes.
        stop: Set by whoever wants the end.
    """
    own = system.ray.address is None
    _start_ray(system, scratch)
    try:
        serve.start(proxy_location="Disabled")
        targets = [
            serve.RunTarget(
                target=build_pool({"pool": name, "system": system.model_dump(mode="json")}),
                name=_application(name),
                route_prefix=None,
            )
            for name in POOLS
            if system.model.drafter is not None or name != "drafter"
        ]
        serve.run_many(targets, wait_for_applications_running=False)
        publish_changes(_pool_states, lambda text: _write(status, text), stopped=stop.wait)
    finally:
        # Replicas drain while their applications are deleted.
        for name in POOLS:
            with contextlib.suppress(Exception):
                serve.delete(_application(name), _blocking=False)
        if own:
            with contextlib.suppress(Exception):
                serve.shutdown()
        ray.shutdown()


def publish_changes(
    look: Callable[[], Mapping[str, Mapping[str, Any]]],
    publish: Callable[[str], object],
    *,
    stopped: Callable[[float], bool],
) -> None:
    """Publish each pool's state whenever it changed; look ever less often while all run unchanged.

    Args:
        look: Costs Ray Serve and this process 50 ms of CPU.
        publish: Takes what is new, as JSON.
        stopped: Waits for so many seconds; whether the end was asked for meanwhile.
    """
    published, pause_s = "", _STATUS_PERIOD_S
    while not stopped(pause_s):
        states = look()
        text = json.dumps(states, sort_keys=True)
        running = all(state["state"] == _RUNNING for state in states.values())
        if text != published:
            publish(text)
        # Whoever waits for a pool to come up is not kept waiting by how seldom it is looked at.
        steady = running and text == published
        pause_s = min(2 * pause_s, _STEADY_STATUS_PERIOD_S) if steady else _STATUS_PERIOD_S
        published = text


def _start_ray(system: SystemSettings, scratch: Path) -> None:
    if system.ray.address is not None:
        ray.init(address=system.ray.address, namespace="dspark", log_to_driver=False)
        return
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                namespace="dspark",
                num_cpus=system.ray.num_cpus,
                resources=dict(system.ray.resources),
                object_store_memory=system.ray.object_store_mb * 1024 * 1024,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=str(scratch),
            )
            return
        except Exception as error:  # Ray raises the bare class for a slow machine
            if "timed out" not in str(error) or attempt == _START_ATTEMPTS:
                raise
            log.warning("ray did not start within its 30 s: trying again")
            ray.shutdown()


def _application(pool: str) -> str:
    return f"dspark-{pool}"


def _pool_states() -> dict[str, dict[str, Any]]:
    """Return Ray Serve's view of each pool."""
    states: dict[str, dict[str, Any]] = {}
    applications = serve.status().applications
    for name in POOLS:
        found = applications.get(_application(name))
        if found is None:
            continue
        deployment = found.deployments.get(name)
        replicas = {} if deployment is None else deployment.replica_states
        states[name] = {
            "state": str(found.status.value),
            "message": "\n".join(
                text for text in (found.message, deployment.message if deployment else "") if text
            ),
            "replicas": {str(state): count for state, count in replicas.items()},
        }
    return states


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the pools of one system until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m dspark.app", description=__doc__)
    parser.add_argument("--config-json", type=Path, required=True, help="SystemSettings as JSON")
    parser.add_argument("--scratch", type=Path, required=True, help="short folder for Ray")
    parser.add_argument("--status", type=Path, required=True, help="file for the pools' state")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    system = SystemSettings.model_validate_json(given.config_json.read_text())
    run(system, scratch=given.scratch, status=given.status, stop=stop)


if __name__ == "__main__":
    # By its real name: what Ray pickles must not come from "__main__".
    from dspark.app import main as run_main

    run_main()
