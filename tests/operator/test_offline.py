"""Rendering a file without a cluster."""

from pathlib import Path

import pytest
import yaml

from dspark_operator.offline import main
from tests.operator.cases import body, small


def _file(folder: Path, **changes: object) -> str:
    path = folder / "service.yaml"
    document = body(small(**changes))
    document["metadata"] = {"name": "llm"}
    path.write_text(yaml.safe_dump_all([{"kind": "Other"}, document]))
    return str(path)


def test_a_file_becomes_its_children(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([_file(tmp_path)]) == 0
    kinds = [child["kind"] for child in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds[-1] == "RayService"
    assert {"Deployment", "ConfigMap", "NetworkPolicy"} <= set(kinds)


def test_a_mistake_is_told_by_its_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([_file(tmp_path, gateway={"replica": 2})]) == 1
    assert "llm: spec.gateway.replica: unknown key; did you mean replicas?" in (
        capsys.readouterr().err
    )
