"""Rendering a file without a cluster."""

from pathlib import Path

import pytest
import yaml

from dspark.cli.main import main
from tests.operator.cases import body, small


def _file(folder: Path, **changes: object) -> str:
    path = folder / "service.yaml"
    document = body(small(**changes))
    document["metadata"] = {"name": "llm"}
    path.write_text(yaml.safe_dump_all([{"kind": "Other"}, document]))
    return str(path)


def _run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["k8s", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_file_becomes_its_children(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("render", _file(tmp_path)) == 0
    kinds = [child["kind"] for child in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds[-1] == "RayService"
    assert {"Deployment", "ConfigMap", "NetworkPolicy"} <= set(kinds)


def test_a_mistake_is_told_by_its_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("render", _file(tmp_path, gateway={"replica": 2})) == 1
    assert "llm: spec.gateway.replica: unknown key; did you mean replicas?" in (
        capsys.readouterr().err
    )


def test_a_file_without_a_service_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text("kind: Other\n")
    assert _run("render", str(tmp_path / "other.yaml")) == 1
    assert "no DSparkService in" in capsys.readouterr().err


def test_without_a_cluster_the_check_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
                        str(tmp_path / "none"))  # fmt: skip
    assert _run("check") == 1
    assert "give --context or KUBECONFIG" in capsys.readouterr().err
