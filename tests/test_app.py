"""What Ray Serve is told of a pool; that it does it is shown end to end."""

import json
import warnings
from dataclasses import dataclass
from typing import Any

import pytest

from dspark.config.system import SystemSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of Ray's own making, at its import
    from dspark.app import FollowPlan, build_pool, publish_changes


def deployment(pool: str, **changes: Any) -> Any:
    system = SystemSettings.model_validate(changes)
    return build_pool({"pool": pool, "system": system.model_dump(mode="json")})._bound_deployment


def test_every_pool_is_an_application_of_its_own() -> None:
    assert [deployment(pool).name for pool in ("prefill", "drafter", "verifier")] == [
        "prefill",
        "drafter",
        "verifier",
    ]


def test_the_drain_fits_into_the_grace() -> None:
    system = {"pools": {"verifier": {"settings": {"drain_s": 60}}}, "ray": {"stop_margin_s": 5}}
    assert deployment("verifier", **system)._deployment_config.graceful_shutdown_timeout_s == 65


def test_threads_are_limited_before_torch_is_imported() -> None:
    options = deployment("drafter", model={"threads": 3}).ray_actor_options
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"


def test_a_pool_goes_to_its_kind_of_node() -> None:
    drafter = {"resources": {"small": 1}, "num_gpus": 0.25}
    options = deployment("drafter", pools={"drafter": drafter}).ray_actor_options
    assert options["resources"] == {"small": 1}
    assert options["num_gpus"] == 0.25


def _vllm(**verifier: Any) -> Any:
    return deployment(
        "verifier",
        gateway={"speculation_mode": "rejection"},
        pools={"prefill": {"replicas": 0}, "verifier": {"engine": "vllm", **verifier}},
    )


def test_vllm_runs_on_the_interpreter_of_its_own_environment() -> None:
    environment = _vllm(vllm={"python": "/opt/vllm/python"}).ray_actor_options["runtime_env"]
    assert environment["py_executable"] == "/opt/vllm/python"
    assert environment["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert "py_executable" not in _vllm().ray_actor_options["runtime_env"]
    assert "py_executable" not in deployment("verifier").ray_actor_options["runtime_env"]


def test_ray_serve_holds_all_devices_of_a_split_target_in_one_bundle() -> None:
    split = {"device": "cuda", "num_gpus": 2, "num_cpus": 3, "resources": {"verifier_gpu": 1}}
    made = _vllm(vllm={"tensor_parallel_size": 2}, **split)
    bundles = made._replica_config.placement_group_bundles
    assert bundles == [{"CPU": 3, "GPU": 2, "verifier_gpu": 1}]
    assert _vllm()._replica_config.placement_group_bundles is None


def test_the_policy_follows_the_pool_at_the_controller() -> None:
    config = deployment(
        "drafter",
        endpoint={"controller": "head:1"},
        pools={"drafter": {"max_replicas": 5, "settings": {"pool": "drafter-small"}}},
    )._deployment_config.autoscaling_config
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (0, None, 5)
    assert config.policy.policy_kwargs == {"controller": "head:1", "pool": "drafter-small"}


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="pool is one of prefill, drafter, verifier, not 'x'"):
        deployment("x")


def test_without_a_controller_the_present_target_stays() -> None:
    @dataclass
    class Context:
        target_num_replicas: int

    decide = FollowPlan("127.0.0.1:1", "drafter")
    assert decide(Context(3)) == (3, {})


def test_pools_that_run_unchanged_are_looked_at_ever_less_often_others_always_soon() -> None:
    seen = iter(["DEPLOYING"] * 4 + ["RUNNING"] * 6 + ["UNHEALTHY"] * 2 + ["RUNNING"])
    pauses_s: list[float] = []
    published: list[tuple[int, str]] = []

    def look() -> dict[str, dict[str, str]]:
        return {"verifier": {"state": "RUNNING"}, "drafter": {"state": next(seen)}}

    def publish(text: str) -> None:
        published.append((len(pauses_s), json.loads(text)["drafter"]["state"]))

    def stopped(pause_s: float) -> bool:
        pauses_s.append(pause_s)
        return len(pauses_s) > 13

    publish_changes(look, publish, stopped=stopped)
    deploying, running, unhealthy = [0.5] * 4, [0.5, 0.5, 1.0, 2.0, 4.0, 4.0], [4.0, 0.5]
    assert pauses_s == [*deploying, *running, *unhealthy, 0.5, 0.5]
    assert published == [(1, "DEPLOYING"), (5, "RUNNING"), (11, "UNHEALTHY"), (13, "RUNNING")]
