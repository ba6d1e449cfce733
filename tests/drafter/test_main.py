import pytest

from dspark.config.drafter import DrafterProcess
from dspark.drafter.__main__ import main


def test_a_lone_drafter_tells_no_controller_unless_one_is_named() -> None:
    assert DrafterProcess.model_validate({"endpoint": {"port_min": 9600}}).endpoint.controller == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"drafter": {"max_session": 3}}', "did you mean 'max_sessions'"),
        ('{"model": {"drafter": "/nowhere"}}', "/nowhere does not exist"),
        ("/nowhere.json", "/nowhere.json"),
    ],
)
def test_a_mistake_is_one_line(config: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-json", config]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
