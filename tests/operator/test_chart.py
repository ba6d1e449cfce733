"""The chart, through Helm where there is one: DSPARK_HELM, or helm on the PATH."""

import base64
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from dspark.rpc.authority import Authority
from dspark_operator import uninstall
from dspark_operator.control_key import read_key
from tests.operator.answering import Answering, served, served_with_tls
from tests.operator.cases import CHART, PROFILES, children, profile

HELM = shutil.which(os.environ.get("DSPARK_HELM") or "helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="no helm here: set DSPARK_HELM to one")


def _helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run(
        [HELM, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def _template(*arguments: str) -> list[dict[str, Any]]:
    done = _helm("template", "dspark", str(CHART), "-n", "serving", *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _profile(name: str) -> str:
    return str(CHART / "profiles" / f"{name}.yaml")


def test_every_value_has_a_comment_and_a_place_in_the_schema() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        stripped = line.strip()
        leaf = ":" in stripped and not stripped.startswith("#") and not stripped.endswith(":")
        inside = any(key in line for key in ("cpu:", "memory:"))
        if leaf and not inside:
            above = [text.strip() for text in lines[max(number - 3, 0) : number]]
            assert any(text.startswith("# --") for text in above), line


@needs_helm
def test_helm_finds_nothing_to_complain_about() -> None:
    done = _helm("lint", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "[ERROR]" not in done.stdout
    assert "[WARNING]" not in done.stdout


@needs_helm
@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_renders_its_instance_as_written(name: str) -> None:
    documents = _template("-f", _profile(name))
    (instance,) = [d for d in documents if d["kind"] == "DSparkService"]
    assert instance["spec"] == profile(name)
    assert len(instance["metadata"]["name"]) <= 30


@needs_helm
@pytest.mark.parametrize("name", PROFILES)
def test_every_pod_of_the_chart_is_confined(name: str) -> None:
    for document in _template("-f", _profile(name)):
        if document["kind"] not in ("Deployment", "StatefulSet", "Pod", "Job"):
            continue
        pod = (
            document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        )
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]


@needs_helm
def test_kubernetes_accepts_what_the_chart_renders() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checker = pytest.importorskip(
            "kubernetes_validate", reason="kubernetes-validate is not installed"
        )
        documents = _template("-f", _profile("ha"))
        for version in ("1.28", "1.32", "1.37"):
            for document in documents:
                if not document["apiVersion"].startswith("serving.dspark.dev"):
                    checker.validate(document, version, strict=True)


@needs_helm
@pytest.mark.parametrize("cluster_wide", ["false", "true"])
def test_the_operator_may_not_read_secrets_nor_do_anything_at_all(cluster_wide: str) -> None:
    documents = _template("--set", f"operator.clusterWide={cluster_wide}")
    roles = [d for d in documents if d["kind"] in ("Role", "ClusterRole")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            assert "secrets" not in rule["resources"]
            for field in ("apiGroups", "resources", "verbs"):
                assert "*" not in rule[field]
    kinds = {role["kind"] for role in roles}
    assert kinds == ({"Role", "ClusterRole"} if cluster_wide == "true" else {"Role"})


@needs_helm
def test_each_watched_namespace_gets_its_own_role() -> None:
    documents = _template("--set", "operator.watchNamespaces={a,b}")
    roles = [d for d in documents if d["kind"] == "Role"]
    assert {role["metadata"]["namespace"] for role in roles} == {"a", "b", "serving"}
    (operator,) = [d for d in documents if d["kind"] == "Deployment"]
    arguments = operator["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--namespace=a", "--namespace=b"} <= set(arguments)


@needs_helm
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("operator.replica=2", "Additional property replica is not allowed"),
        ("operator.replicas=0", "Must be greater than or equal to 1"),
        ("operator.image.tag=latest", "operator.image.tag"),
        ("instance.spec.pool=1", "Additional property pool is not allowed"),
        ("instance.spec.gateway.replicas=0", "Must be greater than or equal to 1"),
        ("instance.spec.model.rowsDtype=float8", "rowsDtype"),
        ("redis.enabled=true", "redis.passwordSecretName is needed"),
    ],
)
def test_a_wrong_value_is_refused_with_a_message(values: str, message: str) -> None:
    done = _helm("template", "x", str(CHART), "-f", _profile("kind-cpu-demo"), "--set", values)
    assert done.returncode != 0
    assert message in done.stderr


@needs_helm
def test_an_instance_without_a_model_is_refused() -> None:
    done = _helm("template", "x", str(CHART), "--set", "instance.enabled=true")
    assert "model is required" in done.stderr


@needs_helm
def test_redis_is_where_the_profile_looks_for_it_and_opens_to_who_needs_it() -> None:
    documents = _template("-f", _profile("ha"))
    spec = profile("ha")
    store = spec["controller"]["store"]["redis"]
    services = [d["metadata"]["name"] for d in documents if d["kind"] == "Service"]
    for address in (spec["ray"]["faultTolerance"]["redisAddress"], store["address"]):
        assert address.partition(":")[0] in services
    (policy,) = [d for d in documents if d["metadata"]["name"] == "dspark-redis"
                 and d["kind"] == "NetworkPolicy"]  # fmt: skip
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    chosen = {e["key"]: e.get("values") for e in peer["podSelector"]["matchExpressions"]}
    for child in children(spec):
        if child["kind"] == "Deployment" and child["metadata"]["name"] == "llm-controller":
            labels = child["spec"]["template"]["metadata"]["labels"]
            assert all(labels[key] in (values or [labels[key]]) for key, values in chosen.items())
    (pod,) = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "StatefulSet"]
    assert store["passwordSecretName"] in [v["secret"]["secretName"] for v in pod["volumes"]
                                           if "secret" in v]  # fmt: skip


@needs_helm
def test_the_operator_reads_its_key_from_a_secret_of_the_chart_or_of_the_user() -> None:
    documents = _template()
    (secret,) = [d for d in documents if d["kind"] == "Secret"]
    assert read_key(base64.b64decode(secret["data"]["key"]).decode())
    for arguments, name in (
        ((), secret["metadata"]["name"]),
        (("--set", "operator.controlKeySecretName=mine"), "mine"),
    ):
        documents = _template(*arguments)
        assert ("Secret" in [d["kind"] for d in documents]) is not bool(arguments)
        (operator,) = [d for d in documents if d["kind"] == "Deployment"]
        pod = operator["spec"]["template"]["spec"]
        (volume,) = [v for v in pod["volumes"] if "secret" in v]
        assert volume["secret"]["secretName"] == name
        (container,) = pod["containers"]
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == volume["name"]]
        assert f"--control-key-file={mount['mountPath']}/key" in container["args"]


@needs_helm
@pytest.mark.parametrize("cluster_wide", ["false", "true"])
def test_what_runs_before_an_uninstall_is_a_hook_with_few_rights(cluster_wide: str) -> None:
    documents = _template(
        "-f", _profile("kind-cpu-demo"), "--set", f"operator.clusterWide={cluster_wide}"
    )
    hooks = [
        d
        for d in documents
        if d["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-delete"
    ]
    kinds = {d["kind"] for d in hooks}
    prefix = "Cluster" if cluster_wide == "true" else ""
    assert kinds == {"ServiceAccount", f"{prefix}Role", f"{prefix}RoleBinding", "Job"}
    for hook in hooks:
        policy = hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert policy == "before-hook-creation,hook-succeeded"
        for rule in hook.get("rules", []):
            assert rule["resources"] == ["dsparkservices"]
            assert rule["verbs"] == ["get", "list", "delete"]
    (job,) = [d for d in hooks if d["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", uninstall.__name__]
    assert "--own=serving/demo" in container["args"]
    assert ("--namespace=serving" in container["args"]) is (cluster_wide == "false")
    order = {d["kind"]: int(d["metadata"]["annotations"]["helm.sh/hook-weight"]) for d in hooks}
    assert order["Job"] == max(order.values())


class _Gateway(Answering):
    tokens = 8

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self.say(200, {"data": [{"id": "dspark-demo"}]})

    def do_POST(self) -> None:
        assert (self.path, self.asked()["model"]) == ("/v1/completions", "dspark-demo")
        usage = {"completion_tokens": self.tokens}
        self.say(200, {"choices": [{"text": " there was"}], "usage": usage})


@pytest.fixture
def gateway() -> Iterator[str]:
    with served(_Gateway) as url:
        yield url


@needs_helm
def test_the_tests_of_the_chart_pass_on_a_gateway_that_answers_and_fail_otherwise(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = _template("-f", _profile("kind-cpu-demo"))
    tests = {
        d["metadata"]["name"]: d["spec"]["containers"][0]
        for d in documents
        if d["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
    }
    assert set(tests) == {"dspark-prompt", "dspark-models"}

    def ends_with(name: str, model: str) -> int:
        command, (script, url, *given) = tests[name]["command"], tests[name]["args"]
        assert (url, given) == ("http://demo-gateway.serving.svc:80", ["dspark-demo", ""])
        assert command == ["python", "-c"]
        done = subprocess.run(
            [sys.executable, "-c", script, gateway, model, ""],
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode

    assert ends_with("dspark-models", "dspark-demo") == 0
    assert ends_with("dspark-models", "another") == 1
    assert ends_with("dspark-prompt", "dspark-demo") == 0
    monkeypatch.setattr(_Gateway, "tokens", 0)
    assert ends_with("dspark-prompt", "dspark-demo") == 1


@needs_helm
def test_the_tests_of_the_chart_know_a_gateway_with_tls_by_its_authority(tmp_path: Path) -> None:
    tls = ("--set", "instance.spec.tls.secretName=s",
           "--set", "instance.spec.tls.authorityConfigMapName=authority")  # fmt: skip
    plain = (*tls, "--set", "instance.spec.tls.plainHttp={gateway}")
    found = {}
    for name, arguments in (("tls", tls), ("plain", plain)):
        documents = _template("-f", _profile("kind-cpu-demo"), *arguments)
        (pod,) = [d["spec"] for d in documents if d["metadata"]["name"] == "dspark-models"]
        found[name] = pod
    (container,) = found["tls"]["containers"]
    script, url, model, authority = container["args"]
    assert url == "https://demo-gateway.serving.svc:80"
    (mount,), (volume,) = container["volumeMounts"], found["tls"]["volumes"]
    assert authority == f"{mount['mountPath']}/ca.crt"
    assert volume["configMap"]["name"] == "authority"
    assert found["plain"]["containers"][0]["args"][1:] == [
        "http://demo-gateway.serving.svc:80", model, "",
    ]  # fmt: skip
    assert "volumes" not in found["plain"]

    own, other = (Authority.new(n, days=1.0, now=datetime.now(UTC)) for n in ("own", "other"))
    with served_with_tls(_Gateway, own, ["dspark.internal"], tmp_path) as where:
        for known, status in ((own, 0), (other, 1)):
            (tmp_path / "ca.crt").write_bytes(known.pair.certificate)
            done = subprocess.run(
                [sys.executable, "-c", script, where, model, str(tmp_path / "ca.crt")],
                capture_output=True, check=False, timeout=60,
            )  # fmt: skip
            assert done.returncode == status, done.stderr
