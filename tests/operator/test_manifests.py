"""Manifests: what a profile becomes, and what holds for every spec."""

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from dspark.config.controller import ControllerSettings
from dspark.config.gateway import GatewayProcess
from dspark.config.system import SystemSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark.telemetry import metrics
from dspark_operator import names
from dspark_operator.control_key import digest_of, token_of
from dspark_operator.manifests.objects import Cluster
from dspark_operator.manifests.render import applicable
from dspark_operator.spec.service import LONGEST_TOKEN_S, LONGEST_TTFT_S
from tests.operator.cases import (
    PROFILES,
    RELEASE,
    ROOT,
    children,
    on_vllm,
    profile,
    ray_service,
    service,
    small,
    specs,
)

GOLDEN = Path(__file__).parent / "golden"
# Where KubeRay's CRDs lie; they are not part of this repository.
KUBERAY = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared/data/kuberay"))


def _pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template: (owner, template)."""
    for child in objects:
        name = f"{child['kind']} {child['metadata']['name']}"
        if child["kind"] in ("Deployment", "Job"):
            yield name, child["spec"]["template"]
        if child["kind"] == "RayService":
            cluster = child["spec"]["rayClusterConfig"]
            yield f"{name} head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", group["template"]


def _of(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(c for c in objects if c["kind"] == kind and c["metadata"]["name"] == name)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_becomes_what_it_became_before(name: str) -> None:
    rendered = yaml.safe_dump_all(children(profile(name)), sort_keys=False, width=100)
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text(), "if that is meant: UPDATE_GOLDEN=1 pytest tests/operator"


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_any_valid_spec_renders_and_the_same_spec_renders_identically(spec: dict[str, Any]) -> None:
    rendered = children(spec)
    assert rendered == children(spec)
    identities = [(c["kind"], c["metadata"]["name"]) for c in rendered]
    assert len(set(identities)) == len(identities)
    for child in rendered:
        json.dumps(child)
        assert child["metadata"]["ownerReferences"][0]["controller"] is True
        assert len(child["metadata"]["name"]) <= 63


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_every_process_accepts_the_settings_that_it_is_given(spec: dict[str, Any]) -> None:
    rendered = children(spec)
    gateway = _of(rendered, "ConfigMap", "llm-gateway")["data"]["gateway.json"]
    assert GatewayProcess.model_validate_json(gateway).gateway.host == "0.0.0.0"
    controller = _of(rendered, "ConfigMap", "llm-controller")["data"]["controller.json"]
    assert ControllerSettings.model_validate_json(controller).port == names.CONTROLLER_PORT
    serve = yaml.safe_load(rendered[-1]["spec"]["serveConfigV2"])
    for application in serve["applications"]:
        role = application["args"]["pool"]
        system = SystemSettings.model_validate(application["args"]["system"])
        pool = getattr(system.pools, role)
        assert application["deployments"][0]["name"] == role
        assert f"dspark-{pool.settings.pool}" == application["name"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_every_replica_fits_its_own_worker_group_and_no_other(spec: dict[str, Any]) -> None:
    rendered = ray_service(spec)
    groups = {
        group["groupName"]: group
        for group in rendered["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    }
    for application in yaml.safe_load(rendered["spec"]["serveConfigV2"])["applications"]:
        role = application["args"]["pool"]
        pool = application["args"]["system"]["pools"][role]
        (resource,) = pool["resources"]
        offering = [g for g in groups.values() if resource in g["resources"]]
        assert [group["groupName"] for group in offering] == [pool["settings"]["pool"]]
        (group,) = offering
        slots = int(group["resources"][resource])
        assert pool["num_gpus"] * slots == int(group["resources"].get("GPU", 0))
        most = application["deployments"][0]["autoscaling_config"]["max_replicas"]
        assert group["maxReplicas"] * slots >= most > (group["maxReplicas"] - 1) * slots


@pytest.mark.parametrize("name", PROFILES)
def test_every_pod_is_confined(name: str) -> None:
    for owner, template in _pods(children(profile(name))):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert pod["serviceAccountName"], owner
        # Only Ray's head, whose autoscaler asks for pods, speaks to the API server.
        assert pod["automountServiceAccountToken"] is owner.endswith(" head"), owner
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, owner
            assert context["readOnlyRootFilesystem"] is True, owner
            assert context["capabilities"] == {"drop": ["ALL"]}, owner
            assert container["resources"]["requests"], owner
            assert not container["image"].endswith(":latest"), owner
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod["volumes"]}, owner


@pytest.mark.parametrize("name", PROFILES)
def test_every_port_says_its_protocol(name: str) -> None:
    """Part of its identity in a server-side apply; Kubernetes 1.20 refuses one without."""
    for child in children(profile(name)):
        if child["kind"] == "Service":
            assert all(port["protocol"] for port in child["spec"]["ports"])
    for _, template in _pods(children(profile(name))):
        for container in template["spec"]["containers"]:
            assert all(port["protocol"] for port in container.get("ports", []))


@pytest.mark.parametrize("name", PROFILES)
def test_pods_outlive_their_drain(name: str) -> None:
    rendered = children(profile(name))
    templates = dict(_pods(rendered))
    for application in yaml.safe_load(rendered[-1]["spec"]["serveConfigV2"])["applications"]:
        system = SystemSettings.model_validate(application["args"]["system"])
        pool = getattr(system.pools, application["args"]["pool"])
        template = templates[f"RayService llm {pool.settings.pool}"]
        drained_s = pool.settings.drain_s + system.ray.stop_margin_s
        assert template["spec"]["terminationGracePeriodSeconds"] > drained_s


def test_a_gateway_pod_outlives_its_streams() -> None:
    rendered = children(small(gateway={"settings": {"drainSeconds": 300}}))
    gateway = _of(rendered, "Deployment", "llm-gateway")
    assert gateway["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 320


def test_services_policies_and_budgets_pick_pods_that_exist() -> None:
    rendered = children(profile("heterogeneous"))
    labels = [template["metadata"]["labels"] for _, template in _pods(rendered)]
    for child in rendered:
        spec = child.get("spec", {})
        if child["kind"] == "Service":
            chosen = spec["selector"]
        elif child["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            chosen = (spec.get("podSelector") or spec["selector"])["matchLabels"]
        else:
            continue
        assert any(chosen.items() <= own.items() for own in labels), child["metadata"]["name"]


def test_other_settings_are_other_pods_and_nothing_else_is() -> None:
    before = children(small())
    after = children({**small(), "controller": {"settings": {"tickSeconds": 1.0}}})
    assert _of(before, "Deployment", "llm-controller") != _of(after, "Deployment", "llm-controller")
    assert _of(before, "Deployment", "llm-gateway") == _of(after, "Deployment", "llm-gateway")
    assert before[-1] == after[-1]


def test_a_count_restarts_no_engine() -> None:
    spec = small()
    spec["pools"][0]["groups"][0]["replicas"] = {"min": 2, "max": 3}
    before = yaml.safe_load(ray_service(small())["spec"]["serveConfigV2"])["applications"]
    after = yaml.safe_load(ray_service(spec)["spec"]["serveConfigV2"])["applications"]
    assert [a["args"] for a in before] == [a["args"] for a in after]
    assert before != after


def test_an_engine_setting_of_one_pool_restarts_no_other() -> None:
    spec = small()
    spec["pools"][0]["groups"][0]["engine"] = {"maxSessions": 7}
    before = yaml.safe_load(ray_service(small())["spec"]["serveConfigV2"])["applications"]
    after = yaml.safe_load(ray_service(spec)["spec"]["serveConfigV2"])["applications"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]


def test_speculation_defaults_give_way_to_a_groups_own_settings() -> None:
    spec = small(speculation={"cohorts": 2, "draftDeadlineFactor": 5.0})
    spec["pools"][0]["groups"].append(
        {"name": "own", "engine": {"cohorts": 1, "drafting": {"deadlineFactor": 2.0}}}
    )
    applications = yaml.safe_load(ray_service(spec)["spec"]["serveConfigV2"])["applications"]
    chosen = [a["args"]["system"]["pools"]["verifier"]["settings"] for a in applications[:2]]
    assert [settings["cohorts"] for settings in chosen] == [2, 1]
    assert [settings["drafting"]["deadline_factor"] for settings in chosen] == [5.0, 2.0]


def _systems(spec: dict[str, Any]) -> list[SystemSettings]:
    """What each application is told."""
    applications = yaml.safe_load(ray_service(spec)["spec"]["serveConfigV2"])["applications"]
    return [SystemSettings.model_validate(one["args"]["system"]) for one in applications]


def test_settings_of_vllm_reach_the_engine_as_they_were_given() -> None:
    arguments = {"max_model_len": 4096, "enforce_eager": True, "compilation_config": {"level": 0}}
    spec = on_vllm(
        python="/opt/vllm/bin/python",
        tensorParallelSize=2,
        kvCacheMegabytes=64,
        engineArgs=arguments,
    )
    group = spec["pools"][0]["groups"][0]
    group |= {"engine": {"maxSessions": 8}, "replicasPerPod": 2}
    group["resources"]["limits"]["nvidia.com/gpu"] = 4
    verifier = _systems(spec)[0].pools.verifier
    assert (verifier.engine, verifier.num_gpus, verifier.settings.max_sessions) == ("vllm", 2, 8)
    assert verifier.vllm == VllmEngineSettings(
        python="/opt/vllm/bin/python",
        tensor_parallel_size=2,
        kv_cache_mb=64,
        engine_args=arguments,
    )


def test_vllm_is_asked_for_rejection_alone_and_runs_prompts_itself() -> None:
    verifier, drafter = _systems(on_vllm())
    assert verifier.pools.prefill.replicas == 0
    assert verifier.gateway.speculation_mode == "rejection"
    assert drafter == _systems(small())[1]
    gateway = _of(children(on_vllm()), "ConfigMap", "llm-gateway")["data"]["gateway.json"]
    assert GatewayProcess.model_validate_json(gateway).gateway.speculation_mode == "rejection"


def test_vllm_without_drafts_is_told_of_no_drafter_pool() -> None:
    spec = on_vllm(drafts="none")
    del spec["pools"][1]
    (verifier,) = _systems(spec)
    assert verifier.pools.drafter.replicas == 0


def test_a_pool_may_have_an_image_of_its_own_and_weights_are_fetched_by_ours() -> None:
    spec = on_vllm()
    spec["pools"][0]["image"] = "dspark-engine-vllm:1.2.3"
    spec["model"]["target"] = {"hub": {"id": "org/name"}}
    templates = dict(_pods(children(spec)))
    used = {
        owner.removeprefix("RayService llm "): template["spec"]["containers"][0]["image"]
        for owner, template in templates.items()
        if owner.startswith("RayService")
    }
    ours = RELEASE.engine_image
    assert used == {
        "head": ours, "verifier-big": "dspark-engine-vllm:1.2.3", "drafter-small": ours,
    }  # fmt: skip
    (fetcher,) = templates["RayService llm verifier-big"]["spec"]["initContainers"]
    assert fetcher["image"] == ours


def test_an_autoscaled_gateway_has_no_count_to_fight_over() -> None:
    rendered = children(small(gateway={"autoscaling": {"maxReplicas": 4}}))
    assert "replicas" not in _of(rendered, "Deployment", "llm-gateway")["spec"]
    assert _of(rendered, "HorizontalPodAutoscaler", "llm-gateway")["spec"]["maxReplicas"] == 4


def _controller(spec: dict[str, Any]) -> tuple[ControllerSettings, dict[str, Any]]:
    """Settings and pod of the controller."""
    rendered = children(spec)
    config = _of(rendered, "ConfigMap", "llm-controller")["data"]["controller.json"]
    pod = _of(rendered, "Deployment", "llm-controller")["spec"]["template"]["spec"]
    return ControllerSettings.model_validate_json(config), pod


def test_the_operator_has_a_token_of_its_own_for_every_service() -> None:
    settings, _ = _controller(small())
    (own,) = settings.api_tokens
    llm = service(small())
    assert (own.name, own.role) == ("dspark-operator", "admin")
    assert own.sha256 == digest_of(token_of(RELEASE.control_key, llm))
    tokens = {
        token_of(RELEASE.control_key, llm),
        token_of("another key, as long as it has to be", llm),
        token_of(RELEASE.control_key, service(small(), name="other")),
    }
    assert len(tokens) == 3
    assert not [t for t in tokens if t in json.dumps(children(small()))]
    assert RELEASE.control_key not in json.dumps(children(small()))


def test_the_controller_wishes_for_the_first_replicas_and_scales_what_follows_its_load() -> None:
    spec = small()
    spec["pools"][1]["groups"][0] |= {
        "replicas": {"min": 0, "max": 6, "initial": 2}, "scaling": {"idleSeconds": 60.0},
    }  # fmt: skip
    settings, _ = _controller(spec)
    assert settings.initial_replicas == {"verifier-big": 1, "drafter-small": 2}
    (unit,) = settings.scaling
    scaled = settings.scaling[unit]
    assert (unit, scaled.idle_s) == ("drafter-small", 60.0)
    assert (scaled.min_replicas, scaled.max_replicas) == (0, 6)


def test_the_control_api_lets_in_who_has_a_token_and_comes_from_the_right_place() -> None:
    mine = {"name": "ada", "role": "operator", "sha256": "a" * 64}
    spec = small(controller={"apiTokens": [mine]}, network={"controlFrom": [{"team": "serving"}]})
    settings, pod = _controller(spec)
    assert [token.name for token in settings.api_tokens] == ["dspark-operator", "ada"]
    (port,) = [p for p in pod["containers"][0]["ports"] if p["name"] == "api"]
    assert port["containerPort"] == settings.api_port
    services = _of(children(spec), "Service", "llm-controller")["spec"]["ports"]
    assert ("api", settings.api_port) in [(p["name"], p["port"]) for p in services]
    policy = _of(children(spec), "NetworkPolicy", "llm-controller")["spec"]["ingress"]
    (rule,) = [r for r in policy if r["ports"][0]["port"] == settings.api_port]
    operator, other = rule["from"]
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "operator"}
    assert operator["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "operators"
    }
    assert other == {"namespaceSelector": {"matchLabels": {"team": "serving"}}}


REDIS = {"address": "redis.db:6380", "tls": True, "passwordSecretName": "redis"}


def test_several_controllers_share_a_redis_and_are_found_one_by_one() -> None:
    spec = small(controller={"replicas": 3, "store": {"type": "Redis", "redis": REDIS}})
    rendered = children(spec)
    settings, pod = _controller(spec)
    assert settings.store == "rediss://redis.db:6380/0"
    assert settings.store_prefix == "dspark:serving:llm"
    secret = {"secretKeyRef": {"name": "redis", "key": "password"}}
    assert {"name": "DSPARK_REDIS_PASSWORD", "valueFrom": secret} in pod["containers"][0]["env"]
    assert not [child for child in rendered if child["kind"] == "PersistentVolumeClaim"]
    deployment = _of(rendered, "Deployment", "llm-controller")["spec"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert _of(rendered, "PodDisruptionBudget", "llm-controller")
    headless = _of(rendered, "Service", "llm-controllers")["spec"]
    assert headless["clusterIP"] == "None"
    gateway = _of(rendered, "ConfigMap", "llm-gateway")["data"]["gateway.json"]
    found_at = GatewayProcess.model_validate_json(gateway).gateway.controller
    assert found_at == "llm-controllers.serving.svc:9900"
    egress = _of(rendered, "NetworkPolicy", "llm-controller")["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 6380}]} in egress


def test_one_controller_has_a_file_and_no_redis() -> None:
    rendered = children(small())
    settings, pod = _controller(small())
    assert settings.store == "/var/lib/dspark/controller.sqlite"
    assert [e["name"] for e in pod["containers"][0]["env"]] == ["HOME"]
    assert "llm-controllers" not in [child["metadata"]["name"] for child in rendered]
    assert "PodDisruptionBudget llm-controller" not in [
        f"{child['kind']} {child['metadata']['name']}" for child in rendered
    ]


def test_every_engine_is_scraped_on_a_port_of_its_own() -> None:
    spec = small(observability={"monitors": True})
    spec["pools"][1]["groups"][0]["replicasPerPod"] = 3
    rendered = children(spec)
    monitor = _of(rendered, "PodMonitor", "llm-ray")["spec"]["podMetricsEndpoints"]
    scraped = [endpoint["port"] for endpoint in monitor]
    assert scraped == ["metrics", "engine-0", "engine-1", "engine-2"]
    pods = dict(_pods(rendered))
    declared = {
        unit: {
            p["name"]: p["containerPort"]
            for p in pods[f"RayService llm {unit}"]["spec"]["containers"][0]["ports"]
        }
        for unit in ("verifier-big", "drafter-small")
    }
    assert list(declared["verifier-big"]) == ["metrics", "engine-0"]
    assert list(declared["drafter-small"]) == scraped
    serve = yaml.safe_load(rendered[-1]["spec"]["serveConfigV2"])
    for application in serve["applications"]:
        endpoint = SystemSettings.model_validate(application["args"]["system"]).endpoint
        unit = application["name"].removeprefix("dspark-")
        engines = [p for name, p in declared[unit].items() if name != "metrics"]
        assert engines[0] == endpoint.metrics_port_min
        assert engines[-1] <= endpoint.metrics_port_max
    allowed = _of(rendered, "NetworkPolicy", "llm-engine")["spec"]["ingress"][-1]["ports"]
    assert {p["port"] for p in allowed} == set(declared["drafter-small"].values())


def test_a_promise_becomes_alerts_on_what_the_gateway_measures() -> None:
    slo = {"timeToFirstTokenSeconds": 1.5, "percentile": 99}
    rendered = children(small(slo=slo, observability={"monitors": True, "labels": {"team": "a"}}))
    rule = _of(rendered, "PrometheusRule", "llm-slo")
    assert rule["metadata"]["labels"]["team"] == "a"
    (alert,) = rule["spec"]["groups"][0]["rules"]
    assert alert["expr"] == (
        "histogram_quantile(0.99, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket"
        '{namespace="serving",service="llm-gateway"}[5m]))) > 1.5'
    )
    largest = {
        "vllm:time_to_first_token_seconds": LONGEST_TTFT_S,
        "vllm:inter_token_latency_seconds": LONGEST_TOKEN_S,
    }
    for metric in (metrics.VLLM_TTFT, metrics.VLLM_ITL):
        (family,) = metric.describe()
        assert metric._upper_bounds[-2] == largest[family.name]


def test_traces_and_logs_are_told_to_every_process_and_let_out() -> None:
    told = {"otlpEndpoint": "http://collector.tracing:4318", "traceShare": 0.1, "logFormat": "json"}
    rendered = children(small(observability=told))
    for owner, template in _pods(rendered):
        if "pair-check" in owner:
            continue
        variables = {e["name"]: e.get("value") for e in template["spec"]["containers"][0]["env"]}
        assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == told["otlpEndpoint"], owner
        assert variables["OTEL_TRACES_SAMPLER_ARG"] == "0.1", owner
        assert variables["OTEL_SERVICE_NAME"] == "llm", owner
        assert variables["DSPARK_LOG_FORMAT"] == "json", owner
    for component in ("gateway", "controller"):
        egress = _of(rendered, "NetworkPolicy", f"llm-{component}")["spec"]["egress"]
        assert {"ports": [{"protocol": "TCP", "port": 4318}]} in egress
    quiet = json.dumps(children(small()))
    assert "OTEL" not in quiet
    assert "DSPARK_LOG_FORMAT" not in quiet


def test_ways_in_lead_to_the_gateway() -> None:
    rendered = children(
        small(
            gateway={
                "service": {"port": 8080},
                "ingress": {"host": "llm.example.org", "tlsSecretName": "llm-tls",
                            "className": "nginx", "annotations": {"a": "b"}},
                "httpRoute": {"parentRefs": [{"name": "edge", "namespace": "gateways"}],
                              "hostnames": ["llm.example.org"]},
            }
        )
    )  # fmt: skip
    ports = {port["name"]: port["port"] for port in
             _of(rendered, "Service", "llm-gateway")["spec"]["ports"]}  # fmt: skip
    ingress = _of(rendered, "Ingress", "llm-gateway")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == "llm-gateway"
    assert path["backend"]["service"]["port"]["name"] in ports
    assert ingress["spec"]["tls"] == [{"hosts": ["llm.example.org"], "secretName": "llm-tls"}]
    assert ingress["metadata"]["annotations"]["a"] == "b"
    route = _of(rendered, "HTTPRoute", "llm-gateway")["spec"]
    assert route["rules"] == [{"backendRefs": [{"name": "llm-gateway", "port": ports["http"]}]}]
    assert route["parentRefs"] == [{"name": "edge", "namespace": "gateways"}]


def test_another_pair_is_another_check_and_nothing_else_is() -> None:
    def job(spec: dict[str, Any]) -> str:
        (found,) = [c["metadata"]["name"] for c in children(spec) if c["kind"] == "Job"]
        return str(found)

    other = small()
    other["model"]["drafter"] = {"hub": {"id": "org/drafter"}}
    scaled = small(gateway={"replicas": 3})
    scaled["pools"][0]["groups"][0] |= {
        "replicas": {"min": 2, "max": 3}, "tolerations": [{"operator": "Exists"}],
    }  # fmt: skip
    assert job(small()) == job(scaled)
    assert len({job(small()), job(other), job(small(images={"engine": "e:2"}))}) == 3


def test_the_check_names_the_pair_that_the_engines_load() -> None:
    rendered = children(profile("heterogeneous"))
    (job,) = [child for child in rendered if child["kind"] == "Job"]
    *_, target, drafter = job["spec"]["template"]["spec"]["containers"][0]["command"]
    for application in yaml.safe_load(rendered[-1]["spec"]["serveConfigV2"])["applications"]:
        model = application["args"]["system"]["model"]
        assert (model["target"], model["drafter"]) == (target, drafter)


def test_without_a_drafter_nothing_is_compared() -> None:
    spec = small()
    del spec["model"]["drafter"], spec["pools"][1]
    assert not [child for child in children(spec) if "pair-check" in child["metadata"]["name"]]


def test_an_old_cluster_gets_what_it_knows() -> None:
    old = Cluster(minor=20, kinds=frozenset())
    rendered = children(small(observability={"monitors": True}), old)
    engine = _of(rendered, "NetworkPolicy", "llm-engine")["spec"]["ingress"]
    assert engine[1]["ports"] == [{"protocol": "TCP"}], "no ranges yet: the gateway gets all"
    taken, missing = applicable(rendered, old)
    assert missing == [
        "monitoring.coreos.com/v1/PodMonitor",
        "monitoring.coreos.com/v1/ServiceMonitor",
        "policy/v1/PodDisruptionBudget",
    ]
    assert not {"PodDisruptionBudget", "PodMonitor"} & {child["kind"] for child in taken}


@pytest.mark.parametrize("version", ["1.28", "1.32", "1.37"])
def test_kubernetes_accepts_every_child(version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checker = pytest.importorskip(
            "kubernetes_validate", reason="kubernetes-validate is not installed"
        )
    minor = int(version.split(".")[1])
    ingress = {"gateway": {"ingress": {"host": "llm.example.org", "tlsSecretName": "t"}}}
    # Every kind is in these two; the rest is checked once.
    profiles = PROFILES if version == "1.37" else ["ha"]
    for spec in [*map(profile, profiles), small(**ingress)]:
        for child in children(spec, Cluster(minor=minor)):
            group = child["apiVersion"].split("/")[0]
            if group not in ("ray.io", "monitoring.coreos.com"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    checker.validate(child, version, strict=True)


def _closed(node: Any) -> Any:
    """A structural schema in which unknown fields are errors."""
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(value) for key, value in node.items()}
    preserved = node.get("x-kubernetes-preserve-unknown-fields")
    if node.get("type") == "object" and isinstance(node.get("properties"), dict) and not preserved:
        made["additionalProperties"] = False
    return made


@pytest.mark.skipif(
    not (KUBERAY / "ray.io_rayservices.yaml").exists(),
    reason="KubeRay's CRDs are not here: set KUBERAY_CRDS to the folder that has them",
)
def test_kuberay_accepts_every_ray_service() -> None:
    crd = yaml.load((KUBERAY / "ray.io_rayservices.yaml").read_text(), Loader=yaml.CSafeLoader)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    checker = jsonschema.Draft4Validator(_closed(spec))
    for name in PROFILES:
        errors = list(checker.iter_errors(ray_service(profile(name))["spec"]))
        assert not errors, [f"{list(e.path)}: {e.message}"[:300] for e in errors]


def test_another_number_of_verifiers_renders_the_same_objects() -> None:
    """It goes to the controller: an autoscaler's step restarts nothing."""
    assert children({**small(), "replicas": 2}) == children(small())
