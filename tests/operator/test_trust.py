"""Trust: a real server with a certificate of the product's own making."""

import datetime
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspark.rpc.authority import Authority
from dspark_operator.ask import ask_routes
from dspark_operator.control import ControlApi, Unreachable
from dspark_operator.trust import NOBODY, Trust, problem_of
from tests.operator.answering import Answering, served_with_tls

NOW = datetime.datetime.now(datetime.UTC)


class _Gateway(Answering):
    def do_GET(self) -> None:
        self.say(200, {"members": [{"replica": {"pool": "v", "state": "ready"}}]})


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("a test", days=1.0, now=NOW)


@pytest.fixture
def url(authority: Authority, tmp_path: Path) -> Iterator[str]:
    # The name that all processes share, and none of the host.
    with served_with_tls(_Gateway, authority, ["dspark.internal"], tmp_path) as where:
        yield where


@pytest.fixture
def misnamed(authority: Authority, tmp_path: Path) -> Iterator[str]:
    with served_with_tls(_Gateway, authority, ["127.0.0.1", "localhost"], tmp_path) as where:
        yield where


def test_a_service_is_known_by_its_authority_whatever_its_address(
    authority: Authority, url: str
) -> None:
    own = Trust(authority=authority.pair.certificate.decode())
    answer = ask_routes(url, own)
    assert answer.fleet is not None, answer.problem
    assert answer.fleet.unit("v").ready == 1
    replaced = Authority.new("another", days=1.0, now=NOW).pair.certificate.decode() + own.authority
    assert ask_routes(url, Trust(authority=replaced)).fleet is not None


def test_nobody_else_is_believed(url: str) -> None:
    other = Trust(authority=Authority.new("another", days=1.0, now=NOW).pair.certificate.decode())
    for trust in (other, NOBODY):
        assert "CERTIFICATE_VERIFY_FAILED" in ask_routes(url, trust).problem
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            ControlApi(url=url, token="secret", trust=trust).policy("v")


def test_a_certificate_for_another_name_is_not_the_services(
    authority: Authority, misnamed: str
) -> None:
    trust = Trust(authority=authority.pair.certificate.decode())
    with pytest.raises(OSError, match=r"dspark\.internal"):
        trust.open(urllib.request.Request(misnamed), 5.0)


def test_what_is_no_authority_is_told(authority: Authority) -> None:
    assert problem_of(authority.pair.certificate.decode()) == ""
    for text in ("", "no certificate", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"):
        assert problem_of(text).startswith("no certificate in PEM"), text
