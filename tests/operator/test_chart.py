"""The chart, through Helm where there is one: DSPARK_HELM, or helm on the PATH."""

import os
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.operator.cases import CHART, PROFILES, profile

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
        if document["kind"] not in ("Deployment", "StatefulSet", "Pod"):
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
def test_redis_is_where_the_profile_looks_for_it() -> None:
    documents = _template("-f", _profile("ha"))
    address = profile("ha")["ray"]["faultTolerance"]["redisAddress"]
    services = [d["metadata"]["name"] for d in documents if d["kind"] == "Service"]
    assert address.partition(":")[0] in services
