from pathlib import Path

import pytest
import yaml

from dspark.config.load import load_system
from dspark.rpc.certificates import read_mutual
from tests.cli.test_main import run
from tests.rpc.pki import now


def test_what_is_printed_is_the_setting_that_uses_what_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tls"
    code, out, _ = run(capsys, "certificates", str(folder), "--server-name", "llm.internal")
    assert code == 0
    file = tmp_path / "system.yaml"
    file.write_text(out)
    tls = load_system(file).endpoint.tls
    assert tls is not None
    assert tls.server_name == "llm.internal"
    assert read_mutual(tls, now=now())
    assert {each.name: each.stat().st_mode & 0o777 for each in folder.iterdir()} == {
        "authority.pem": 0o644,
        "authority.key": 0o600,
        "certificate.pem": 0o644,
        "key.pem": 0o600,
    }


def test_once_more_the_same_authority_signs_a_new_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "certificates", str(tmp_path))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    run(capsys, "certificates", str(tmp_path), "--name", "gateway.example", "--name", "10.0.0.9")
    after = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"certificate.pem", "key.pem"}
    assert set(after) == set(before)
    assert yaml.safe_load(out)["endpoint"]["tls"]["key"] == str(tmp_path / "key.pem")


def test_an_authority_without_its_key_signs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "certificates", str(tmp_path))
    (tmp_path / "authority.key").unlink()
    code, _, err = run(capsys, "certificates", str(tmp_path))
    assert code == 1
    assert "authority.key: no such file: put back the key" in err
    (tmp_path / "authority.key").write_bytes((tmp_path / "key.pem").read_bytes())
    code, _, err = run(capsys, "certificates", str(tmp_path))
    assert code == 1
    assert "does not belong to its certificate: name another folder" in err
