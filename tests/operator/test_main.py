"""The process around the handlers, and the questions that it asks of gateways."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kopf
import pytest

from dspark_operator import __main__ as process
from dspark_operator import handlers, names
from dspark_operator.ask import ask_routes, ask_token
from dspark_operator.trust import NOBODY
from tests.operator.answering import Answering, served

FLEET = {"term": 1, "members": [{"replica": {"pool": "v", "state": "ready"}}], "pools": []}


class _Gateway(Answering):
    answer: tuple[int, Any] = (200, FLEET)

    def do_GET(self) -> None:
        self.say(*self.answer)

    def do_POST(self) -> None:
        asked = self.asked()
        assert (asked["model"], asked["max_tokens"]) == ("m", 1)
        self.say(*self.answer)


@pytest.fixture
def gateway() -> Iterator[str]:
    with served(_Gateway) as url:
        yield url


def test_the_fleet_is_asked_of_the_gateway(gateway: str) -> None:
    _Gateway.answer = (200, FLEET)
    fleet = ask_routes(gateway, NOBODY).fleet
    assert fleet is not None
    assert fleet.unit("v").ready == 1


def test_a_gateway_that_cannot_be_asked_is_named() -> None:
    answer = ask_routes("http://127.0.0.1:1", NOBODY)
    assert answer.fleet is None
    assert answer.problem.startswith("http://127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((200, {"choices": [{"text": ""}]}), ""),
        ((200, {"choices": []}), "an answer without a choice"),
        ((200, []), "'list' object has no attribute 'get'"),
    ],
)
def test_a_token_came_or_what_came_instead(gateway: str, answer: Any, problem: str) -> None:
    _Gateway.answer = answer
    assert ask_token(gateway, "m", NOBODY) == problem


def test_an_error_of_the_gateway_is_told(gateway: str) -> None:
    _Gateway.answer = (503, {})
    assert "503" in ask_token(gateway, "m", NOBODY)


def test_kopf_takes_every_handler() -> None:
    registry = kopf.OperatorRegistry()
    handlers.register(registry, period_s=1.0)


@pytest.mark.parametrize("cluster_wide", [True, False])
def test_with_rights_in_single_namespaces_only_nothing_else_is_watched(cluster_wide: bool) -> None:
    settings = process._settings(cluster_wide=cluster_wide)
    assert settings.scanning.disabled is not cluster_wide
    assert settings.persistence.finalizer == names.FINALIZER


def test_a_short_key_is_refused_before_anything_else(tmp_path: Path) -> None:
    short = tmp_path / "key"
    short.write_text("secret\n")
    words = ["--lease-namespace=a", "--engine-image=e:1", "--server-image=s:1"]
    with pytest.raises(SystemExit, match="the control key has 6 characters: 32 are needed"):
        process.main([*words, f"--control-key-file={short}"])


def test_the_arguments_of_the_chart_are_known() -> None:
    given = process._arguments(
        ["--lease-namespace=a", "--engine-image=e:1", "--server-image=s:1", "--namespace=b",
         "--control-key-file=/etc/dspark/control/key"]
    )  # fmt: skip
    assert (given.namespace, given.health_port) == (["b"], 8080)
