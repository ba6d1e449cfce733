"""TLS in the manifests: in every process of a service, or in none."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dspark.config.controller import ControllerSettings
from dspark.config.gateway import GatewayProcess
from dspark.config.system import SystemSettings
from dspark_operator.spec.parse import Service
from tests.operator.cases import children, ray_service, service, small

GIVEN = {"authorityConfigMapName": "authority", "secretName": "all"}
ISSUED = {"authorityConfigMapName": "authority", "issuerRef": {"name": "dspark"}}


def _pods(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pod templates of everything that runs as long as the service."""
    for child in children(spec):
        if child["kind"] == "Deployment":
            yield child["metadata"]["name"], child["spec"]["template"]
    cluster = ray_service(spec)["spec"]["rayClusterConfig"]
    yield "ray-head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def _config(spec: dict[str, Any], component: str) -> Any:
    file = f"{component}.json"
    (found,) = [c["data"][file] for c in children(spec) if file in c.get("data", {})]
    return json.loads(found)


@pytest.mark.parametrize("tls", [GIVEN, ISSUED], ids=["a Secret", "an issuer"])
def test_every_process_has_certificate_key_and_authority_where_it_is_told(
    tls: dict[str, Any],
) -> None:
    spec = small(tls=tls)
    told = {
        "controller": ControllerSettings.model_validate(_config(spec, "controller")).tls,
        "gateway": GatewayProcess.model_validate(_config(spec, "gateway")).gateway.tls,
    }
    for application in yaml.safe_load(ray_service(spec)["spec"]["serveConfigV2"])["applications"]:
        system = SystemSettings.model_validate(application["args"]["system"])
        told[application["name"]] = system.endpoint.tls
        # What asks the controller for wanted replicas runs on Ray's head.
        kwargs = application["deployments"][0]["autoscaling_config"]["policy"]["policy_kwargs"]
        assert kwargs["tls"] == application["args"]["system"]["endpoint"]["tls"]
    assert len({str(settings) for settings in told.values()}) == 1
    (settings,) = {str(s.certificate): s for s in told.values() if s}.values()
    found = dict(_pods(spec))
    assert set(found) == {"llm-gateway", "llm-controller", "ray-head", "verifier-big",
                          "drafter-small"}  # fmt: skip
    for name, pod in found.items():
        (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "tls"]
        (mount,) = [m for m in pod["spec"]["containers"][0]["volumeMounts"] if m["name"] == "tls"]
        assert "subPath" not in mount, "it would not follow what is replaced"
        files = {
            f"{mount['mountPath']}/{item['path']}"
            for source in volume["projected"]["sources"]
            for kind in source.values()
            for item in kind["items"]
        }
        assert {str(settings.certificate), str(settings.key), str(settings.authority)} == files
        role = name.removeprefix("llm-") if name.startswith("llm-") else "engine"
        secret, authority = volume["projected"]["sources"]
        wanted = "all" if "secretName" in tls else f"llm-{role}-tls"
        assert secret["secret"]["name"] == wanted
        assert authority["configMap"]["name"] == "authority"


def test_an_issuer_is_asked_for_one_certificate_for_each_role() -> None:
    made = {c["spec"]["secretName"]: c["spec"] for c in children(small(tls=ISSUED))
            if c["kind"] == "Certificate"}  # fmt: skip
    assert set(made) == {"llm-gateway-tls", "llm-controller-tls", "llm-engine-tls"}
    for asked in made.values():
        assert asked["dnsNames"][0] == "dspark.internal"
        assert {"server auth", "client auth"} <= set(asked["usages"])
        assert asked["issuerRef"] == {
            "name": "dspark",
            "kind": "Issuer",
            "group": "cert-manager.io",
        }
    assert "llm-gateway.serving.svc" in made["llm-gateway-tls"]["dnsNames"]
    assert "localhost" in made["llm-controller-tls"]["dnsNames"], "kubectl port-forward"
    assert "llm-controllers.serving.svc" in made["llm-controller-tls"]["dnsNames"]
    assert not [c for c in children(small(tls=GIVEN)) if c["kind"] == "Certificate"]


def _scheme(spec: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Schemes of probes, and of monitors' endpoints by port."""
    probes, monitors = [], []
    for name, pod in _pods(spec):
        if name.startswith("llm-"):
            container = pod["spec"]["containers"][0]
            probes += [container[p]["httpGet"].get("scheme", "HTTP")
                       for p in ("startupProbe", "livenessProbe", "readinessProbe")]  # fmt: skip
    for child in children({**spec, "observability": {"monitors": True}}):
        for key in ("endpoints", "podMetricsEndpoints"):
            for endpoint in child["spec"].get(key, []) if "Monitor" in child["kind"] else []:
                scheme = endpoint.get("scheme", "http")
                assert (scheme == "https") == ("tlsConfig" in endpoint)
                monitors.append(f"{endpoint['port']} {scheme}")
    return sorted(set(probes)), sorted(set(monitors))


def test_probes_and_monitors_speak_what_the_ports_speak() -> None:
    assert _scheme(small()) == (
        ["HTTP"], ["engine-0 http", "http http", "metrics http"],
    )  # fmt: skip
    assert _scheme(small(tls=GIVEN)) == (
        # Of the two ports called metrics, Ray's own has no certificate of ours.
        ["HTTPS"], ["engine-0 https", "http https", "metrics http", "metrics https"],
    )  # fmt: skip
    plain = {**GIVEN, "plainHttp": ["gateway", "api", "metrics"]}
    assert _scheme(small(tls=plain)) == _scheme(small())


def test_urls_say_what_the_ports_speak() -> None:
    from dspark_operator import names

    def urls(**tls: Any) -> tuple[str, str]:
        of: Service = service(small(**({"tls": {**GIVEN, **tls}} if tls else {})))
        return names.gateway_url(of), names.control_url(of)

    assert urls() == ("http://llm-gateway.serving.svc", "http://llm-controller.serving.svc:9902")
    assert urls(plainHttp=[]) == (
        "https://llm-gateway.serving.svc:80", "https://llm-controller.serving.svc:9902",
    )  # fmt: skip
    assert urls(plainHttp=["gateway"])[0] == "http://llm-gateway.serving.svc"


def test_without_tls_nothing_of_it_is_there() -> None:
    assert "tls" not in json.dumps([c["spec"] for c in children(small()) if "spec" in c]).lower()
