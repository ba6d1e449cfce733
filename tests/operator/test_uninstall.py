"""Before the operator goes: what is deleted, waited for, and left alone."""

from typing import Any

import pytest

from dspark_operator import uninstall
from dspark_operator.uninstall import Left, Step, next_step


def _left(path: str, *, ending: bool = False) -> Left:
    namespace, _, name = path.partition("/")
    return Left(namespace=namespace, name=name, ending=ending)


OWN = _left("serving/demo")


@pytest.mark.parametrize(
    ("left", "own", "step"),
    [
        ([], "serving/demo", Step.DONE),
        ([OWN], "serving/demo", Step.DELETE),
        ([_left("serving/demo", ending=True)], "serving/demo", Step.WAIT),
        ([OWN], "", Step.REFUSE),
        ([OWN, _left("other/demo")], "serving/demo", Step.REFUSE),
        ([OWN, _left("other/demo", ending=True)], "serving/demo", Step.DELETE),
        ([_left("other/demo", ending=True)], "serving/demo", Step.WAIT),
    ],
)
def test_only_ones_own_instance_is_deleted(left: list[Left], own: str, step: Step) -> None:
    assert next_step(left, own)[0] is step


def test_services_of_others_are_named() -> None:
    message = next_step([OWN, _left("other/llm"), _left("b/c")], "serving/demo")[1]
    assert message.startswith("other/llm, b/c would be left without an operator")


def test_the_process_deletes_once_waits_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter([[OWN], [_left("serving/demo", ending=True)], []])
    deleted: list[str] = []
    monkeypatch.setattr(uninstall.config, "load_incluster_config", lambda: None)
    monkeypatch.setattr(uninstall, "ApiClient", lambda: None)
    monkeypatch.setattr(uninstall, "DynamicClient", lambda _: None)
    monkeypatch.setattr(uninstall, "_left", lambda *_: next(looks))
    monkeypatch.setattr(uninstall, "_delete", lambda _, path: deleted.append(path))
    monkeypatch.setattr(uninstall, "_PAUSE_S", 0.0)
    words: list[Any] = ["--namespace=serving", "--own=serving/demo"]
    assert uninstall.main(words) == 0
    assert deleted == ["serving/demo"]
    assert capsys.readouterr().out.splitlines()[-1] == "no service is left"
