"""What the tests of this folder share: profiles, small services, and specs drawn at random."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from dspark_operator.manifests.objects import Cluster, Release
from dspark_operator.manifests.render import render
from dspark_operator.spec.parse import Service, parse_service

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/dspark"
PROFILES = sorted(path.stem for path in (CHART / "profiles").glob("*.yaml"))
RELEASE = Release(
    engine_image="dspark-engine:1.2.3",
    server_image="dspark-server:1.2.3",
    namespace="operators",
    control_key="a key of the tests, long enough",
)
CLUSTER = Cluster(
    minor=32,
    kinds=frozenset(
        {
            "policy/v1/PodDisruptionBudget",
            "autoscaling/v2/HorizontalPodAutoscaler",
            "monitoring.coreos.com/v1/ServiceMonitor",
            "monitoring.coreos.com/v1/PodMonitor",
            "monitoring.coreos.com/v1/PrometheusRule",
        }
    ),
)


def body(spec: dict[str, Any], *, name: str = "llm", generation: int = 1) -> dict[str, Any]:
    """A DSparkService as the API server gives it."""
    return {
        "apiVersion": "serving.dspark.dev/v1alpha1",
        "kind": "DSparkService",
        "metadata": {
            "name": name,
            "namespace": "serving",
            "uid": "0d9f3c1e-5f0e-4f4e-9c1b-1d2b3c4d5e6f",
            "generation": generation,
        },
        "spec": deepcopy(spec),
    }


def service(spec: dict[str, Any], **metadata: Any) -> Service:
    return parse_service(body(spec, **metadata))


def children(spec: dict[str, Any], cluster: Cluster = CLUSTER) -> list[dict[str, Any]]:
    return render(service(spec), RELEASE, cluster)


def ray_service(spec: dict[str, Any]) -> dict[str, Any]:
    return children(spec)[-1]


def profile(name: str) -> dict[str, Any]:
    """The instance's spec of a chart profile."""
    values = yaml.safe_load((CHART / "profiles" / f"{name}.yaml").read_text())
    return values["instance"]["spec"]


def small(**changes: Any) -> dict[str, Any]:
    """A verifier and a drafter on one GPU each."""
    gpu = {"limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 1}}
    spec: dict[str, Any] = {
        "model": {
            "name": "m",
            "target": {"pvc": {"claimName": "weights", "path": "target"}},
            "drafter": {"pvc": {"claimName": "weights", "path": "drafter"}},
        },
        "pools": [
            {
                "name": "verifier",
                "role": "verifier",
                "groups": [{"name": "big", "replicas": {"min": 1, "max": 4}, "resources": gpu}],
            },
            {
                "name": "drafter",
                "role": "drafter",
                "groups": [{"name": "small", "replicas": {"min": 0, "max": 4}, "resources": gpu}],
            },
        ],
    }
    return deepcopy({**spec, **changes})


def on_vllm(**vllm: Any) -> dict[str, Any]:
    """The same with vLLM as the verifier."""
    spec = small()
    spec["pools"][0] |= {"runtime": "vllm", **({"vllm": vllm} if vllm else {})}
    return spec


def policy_manifest(name: str = "calm", *, age: int = 0, **spec: Any) -> dict[str, Any]:
    """A VerificationPolicy of the service ``llm``, made ``age`` seconds after the first."""
    return {
        "metadata": {
            "name": name,
            "generation": 3,
            "creationTimestamp": f"2026-01-01T00:00:{age:02d}Z",
        },
        "spec": {"serviceName": "llm", **spec},
    }


_NAMES = ("h100", "h200", "l4", "cpu")
_ENGINE = {
    "prefill": {"numPages": (8, 4096), "chunkTokens": (16, 16), "drainSeconds": (0, 60)},
    "drafter": {"maxSessions": (1, 512), "maxBatchSessions": (1, 64), "drainSeconds": (0, 30)},
    "verifier": {"numPages": (8, 4096), "maxSessions": (1, 256), "drainSeconds": (0, 120)},
}


@st.composite
def _group(draw: st.DrawFn, role: str, name: str) -> dict[str, Any]:
    least = draw(st.integers(1 if role == "verifier" else 0, 3))
    most = draw(st.integers(max(least, 1), 8))
    group: dict[str, Any] = {
        "name": name,
        "replicas": {"min": least, "max": most},
        "replicasPerPod": draw(st.integers(1, 4)),
        "resources": {"limits": {"cpu": draw(st.sampled_from(["500m", "4", "16"]))}},
        "engine": {
            key: draw(st.integers(*bounds))
            for key, bounds in _ENGINE[role].items()
            if draw(st.booleans())
        },
    }
    gpus = draw(st.integers(0, 2))
    if gpus:
        group["resources"]["limits"]["nvidia.com/gpu"] = gpus
    if draw(st.booleans()):
        group["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    if draw(st.booleans()):
        group["nodeSelector"] = {"sku": draw(st.sampled_from(_NAMES))}
    return group


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Any valid spec."""
    with_drafter = draw(st.booleans())
    runtime = draw(st.sampled_from(["native", "vllm"]))
    sources = st.sampled_from(
        [
            {"hub": {"id": "org/name"}},
            {"pvc": {"claimName": "weights"}},
            {"builtin": "demo/target"},
            {
                "objectStore": {
                    "uri": "s3://bucket/prefix",
                    "image": "copy:1",
                    "command": ["cp", "$(SOURCE)", "$(DESTINATION)"],
                }
            },
        ]
    )
    others = ["verifier"] if runtime == "vllm" else ["prefill", "verifier"]
    roles = ["verifier", *draw(st.lists(st.sampled_from(others), max_size=2))]
    roles += ["drafter"] * (draw(st.integers(0, 2)) if with_drafter else 0)
    pools = []
    for position, role in enumerate(draw(st.permutations(roles))):
        names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3, unique=True))
        groups = [draw(_group(role, name)) for name in names]
        pool = {"name": f"{role}{position}", "role": role, "groups": groups}
        if role == "verifier" and runtime == "vllm":
            for group in groups:
                group["engine"].pop("numPages", None)
            pool |= {"runtime": "vllm", "vllm": {"drafts": "pool" if with_drafter else "none"}}
        pools.append(pool)
    model: dict[str, Any] = {"name": "m", "target": draw(sources)}
    if with_drafter:
        model["drafter"] = draw(sources)
    spec: dict[str, Any] = {"model": model, "pools": pools}
    if draw(st.booleans()):
        source: dict[str, Any] = {"issuerRef": {"name": "dspark"}}
        if draw(st.booleans()):
            source = {"secretName": "certificate"}
        plain = draw(st.lists(st.sampled_from(["gateway", "api", "metrics"]), unique=True))
        spec["tls"] = {"authorityConfigMapName": "authority", "plainHttp": plain, **source}
    if draw(st.booleans()):
        spec["gateway"] = {"replicas": draw(st.integers(1, 5))}
    if draw(st.booleans()):
        spec["ray"] = {"version": draw(st.sampled_from(["2.60.0", "2.61.0"]))}
    if draw(st.booleans()):
        spec["updateStrategy"] = {
            "type": "NewClusterWithIncrementalUpgrade",
            "surge": {
                "maxPercent": draw(st.integers(1, 99)),
                "gatewayClassName": "class",
            },
        }
    return spec
