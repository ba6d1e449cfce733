from pathlib import Path

import pytest

from dspark.cli.stack.supervisor import Supervisor
from dspark.cli.stack.tls_files import certificates_of, check_files
from dspark.config.system import SystemSettings
from tests.rpc.pki import Pki, an_authority


def a_system(pki: Pki, **more: object) -> SystemSettings:
    tls = pki.settings().model_dump(mode="json")
    settings = SystemSettings.model_validate({"endpoint": {"tls": tls}} | more)
    return settings.with_ports(
        controller_port=1, metrics_port=2, api_port=3, gateway_port=4, state_dir=pki.folder
    )


def test_every_http_port_is_told_by_its_certificate(tmp_path: Path) -> None:
    pki, public = Pki(tmp_path / "ours"), Pki(tmp_path / "public", an_authority("public"))
    ours = str(pki.folder / "certificate.pem")
    assert certificates_of(a_system(pki)) == {"gateway": ours, "api": ours, "metrics": ours}
    own = {"https": public.https().model_dump(mode="json")}
    shown = certificates_of(a_system(pki, gateway=own))
    assert shown["gateway"] == str(public.folder / "certificate.pem")
    assert certificates_of(SystemSettings()) == {}


def test_each_file_of_each_process_is_read_before_the_start(tmp_path: Path) -> None:
    pki, public = Pki(tmp_path / "ours"), Pki(tmp_path / "public", an_authority("public"))
    own = {"https": public.https().model_dump(mode="json")}
    settings = a_system(pki, gateway=own)
    check_files(settings)
    (public.folder / "key.pem").write_text("none")
    with pytest.raises(ValueError, match=r"public/key\.pem: no private key in PEM"):
        check_files(settings)
    pki.renew(days=-1)
    with pytest.raises(ValueError, match=r"ours/certificate\.pem: expired"):
        check_files(settings)


def test_a_file_at_fault_is_found_before_anything_is_started(tmp_path: Path) -> None:
    pki = Pki(tmp_path / "ours")
    tls = pki.settings().model_dump(mode="json")
    (pki.folder / "authority.pem").unlink()
    settings = SystemSettings.model_validate(
        {"endpoint": {"tls": tls}, "controller": {"port": 0}, "gateway": {"port": 0}}
    )
    with pytest.raises(ValueError, match=r"authority\.pem: no such file"):
        Supervisor(settings, state_dir=tmp_path / "state", source="a test")
