from pathlib import Path

import pytest

from dspark.config.system import SystemSettings


def test_addresses_follow_from_the_controllers_port(tmp_path: Path) -> None:
    settings = SystemSettings().with_ports(
        controller_port=7001,
        metrics_port=7003,
        api_port=7004,
        gateway_port=7002,
        state_dir=tmp_path,
    )
    assert settings.endpoint.controller == "127.0.0.1:7001"
    assert settings.gateway.controller == "127.0.0.1:7001"
    assert settings.gateway.port == 7002
    assert settings.controller.gateway_url == "http://127.0.0.1:7002"
    assert settings.state_dir == tmp_path


def test_an_explicit_address_of_the_controller_stays(tmp_path: Path) -> None:
    settings = SystemSettings.model_validate(
        {
            "endpoint": {"controller": "head:9900"},
            "controller": {"host": "0.0.0.0", "gateway_url": "http://front:80"},
        }
    ).with_ports(
        controller_port=9900,
        metrics_port=9901,
        api_port=9902,
        gateway_port=8000,
        state_dir=tmp_path,
    )
    assert settings.endpoint.controller == "head:9900"
    assert settings.gateway.controller == "127.0.0.1:9900"
    assert settings.controller.gateway_url == "http://front:80"


def test_the_store_lies_in_the_state_folder_unless_it_is_memory(tmp_path: Path) -> None:
    def store(name: str) -> str:
        settings = SystemSettings.model_validate({"controller": {"store": name}})
        definite = settings.with_ports(
            controller_port=1, metrics_port=3, api_port=4, gateway_port=2, state_dir=tmp_path
        )
        return definite.controller.store

    assert store("memory") == "memory"
    assert store("kept.sqlite") == str(tmp_path / "kept.sqlite")
    assert store("/elsewhere/kept.sqlite") == "/elsewhere/kept.sqlite"


def test_the_controller_starts_with_the_configured_replicas(tmp_path: Path) -> None:
    settings = SystemSettings.model_validate({"pools": {"drafter": {"replicas": 0}}})
    definite = settings.with_ports(
        controller_port=1, metrics_port=3, api_port=4, gateway_port=2, state_dir=tmp_path
    )
    assert definite.controller.initial_replicas == {"prefill": 1, "drafter": 0, "verifier": 1}


def test_a_pool_may_have_its_own_device_and_threads() -> None:
    settings = SystemSettings.model_validate(
        {"model": {"threads": 2}, "pools": {"drafter": {"device": "cuda"}}}
    )
    drafter = settings.model_of(settings.pools.drafter)
    assert (drafter.device, drafter.threads) == ("cuda", 2)
    assert settings.model_of(settings.pools.verifier).device == "cpu"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"pools": {"drafter": {"replicas": 3}}}, r"3 is not in 0\.\.2"),
        ({"pools": {"verifier": {"replicas": 0}}}, "greater than or equal to 1"),
        ({"model": {"drafter": None}}, r"name a drafter or set pools\.drafter\.replicas to 0"),
        (
            {"pools": {"prefill": {"settings": {"chunk_tokens": 50}}}},
            "multiple of model.page_tokens, and 50 is not one of 16",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_both_numbers(data: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SystemSettings.model_validate(data)


def test_settings_survive_the_way_to_another_process() -> None:
    settings = SystemSettings.model_validate({"pools": {"drafter": {"resources": {"small": 1}}}})
    assert SystemSettings.model_validate_json(settings.model_dump_json()) == settings


_TLS = {"certificate": "c.pem", "key": "k.pem", "authority": "/etc/ca.pem"}


def _definite(settings: dict[str, object], state_dir: Path) -> SystemSettings:
    return SystemSettings.model_validate(settings).with_ports(
        controller_port=1, metrics_port=3, api_port=4, gateway_port=2, state_dir=state_dir
    )


def test_one_tls_block_is_that_of_every_process_with_files_that_every_folder_finds(
    tmp_path: Path,
) -> None:
    settings = _definite({"endpoint": {"tls": _TLS}}, tmp_path)
    assert settings.endpoint.tls is not None
    assert settings.endpoint.tls == settings.gateway.tls == settings.controller.tls
    assert settings.endpoint.tls.certificate == Path("c.pem").absolute()
    assert settings.endpoint.tls.authority == Path("/etc/ca.pem")


def test_http_is_https_where_there_is_tls_and_the_dashboard_expects_the_gateways_certificate(
    tmp_path: Path,
) -> None:
    public = {"certificate": "/public.pem", "key": "/public.key"}
    bare = _definite({"endpoint": {"tls": {**_TLS, "plain_http": ["gateway"]}}}, tmp_path)
    shared = _definite({"endpoint": {"tls": _TLS}}, tmp_path)
    own = _definite({"endpoint": {"tls": _TLS}, "gateway": {"https": public}}, tmp_path)
    assert bare.controller.gateway_url == "http://127.0.0.1:2"
    assert bare.gateway.served_with() is None
    assert bare.controller.api_served_with() is not None
    assert shared.controller.gateway_url == "https://127.0.0.1:2"
    assert shared.controller.gateway_certificate == Path("c.pem").absolute()
    assert own.controller.gateway_certificate == Path("/public.pem")


def test_a_process_may_have_a_certificate_of_its_own(tmp_path: Path) -> None:
    other = {**_TLS, "certificate": "/other.pem"}
    settings = _definite({"endpoint": {"tls": _TLS}, "controller": {"tls": other}}, tmp_path)
    assert settings.controller.tls is not None
    assert settings.controller.tls.certificate == Path("/other.pem")
    assert settings.gateway.tls == settings.endpoint.tls
