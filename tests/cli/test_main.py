import os
import subprocess
import sys

import pytest

from dspark.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_help_needs_neither_torch_nor_ray() -> None:
    code = "import sys, dspark.cli.main; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("up", "down", "status", "scale", "chat", "generate", "demo", "train", "k8s"):
        assert f"  {command} " in out


def test_a_wrong_option_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "up", "--prot", "1")
    assert (code, out) == (2, "")
    assert err.startswith("dspark: No such option: --prot")
    assert err.count("\n") == 1


def test_a_wrong_setting_is_one_line_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "config", "--set", "gateway.prot=1")
    assert (code, out) == (1, "")
    assert (
        err == "dspark: the defaults with --set: gateway.prot: unknown key; did you mean 'port'?\n"
    )


def test_debug_shows_where_it_went_wrong() -> None:
    with pytest.raises(ValueError, match="unknown key"):
        main(["config", "--debug", "--set", "gateway.prot=1"])


def test_commands_that_need_a_stack_say_how_to_start_one(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    code, _, err = run(
        capsys, "scale", "--pool", "drafter", "--replicas", "1", "--state-dir", str(tmp_path)
    )
    assert code == 1
    assert "start one with `dspark up`" in err


def test_config_prints_every_setting_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "--port", "8123")
    assert code == 0
    assert "  port: 8123\n" in out
    assert "# KV pages of one replica." in out


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str, at: int) -> list[str]:
        asked = {"_DSPARK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        command = [sys.executable, "-m", "dspark.cli"]
        environment = {**os.environ, **asked}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return done.stdout.split()

    assert completed("dspark bud", 1) == ["budget"]
    assert "--min-tokens-per-s" in completed("dspark budget set --m", 3)
