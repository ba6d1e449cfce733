"""``dspark scale`` at a control API elsewhere."""

import pytest

from dspark.cli.control_api import TOKEN_VARIABLE
from dspark.cli.main import main
from dspark.config.controller import ControllerSettings
from dspark.core.ids import PoolName
from tests.controller.served import a_controller, served_api


def _said(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(("scale", *words))
    said = capsys.readouterr()
    assert ended.value.code == expect, said.err
    return said.err if expect else said.out


def test_a_pool_elsewhere_is_scaled_and_left_to_its_load_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    controller = a_controller(ControllerSettings())
    with served_api(controller, live=True) as url:
        at = ("--pool", "drafter", "--url", url)
        assert _said(capsys, *at, "--replicas", "3") == "drafter: 1 -> 3 replicas wanted\n"
        wish = controller.wishes.of(PoolName("drafter"))
        assert wish is not None
        assert (wish.replicas, wish.reason) == (3, "dspark scale")
        assert _said(capsys, *at, "--auto").endswith(" -> by its load wanted\n")
        assert controller.wishes.of(PoolName("drafter")) is None
        assert "no pool is called" in _said(
            capsys, "--pool", "none", "--url", url, "--replicas", "1", expect=1
        )
