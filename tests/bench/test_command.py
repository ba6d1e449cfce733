import pytest

from dspark.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *words])
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--arms", "off,on"), "arm 'on' is none of"),
        (("--concurrency", "1,x"), "--concurrency '1,x' is no list of different numbers above 0"),
        (("--concurrency", "0"), "--concurrency '0' is no list"),
        (("--rate", "2,2"), "--rate '2,2' is no list"),
        (("--rate", "inf"), "--rate 'inf' is no list"),
        (("--rate", "2", "--concurrency", "1"), "--rate is an open loop: leave out"),
        (("--topology", "colocated"), "--topology and --latency-ms need --engine"),
        (("--engine", "--topology", "remote"), "is no list of different ones of disaggregated"),
        (("--prompts", "/no/such/file"), "/no/such/file: No such file"),
    ],
)
def test_a_wrong_option_is_one_line(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, *words)
    assert code == 1
    assert said.startswith("dspark: ")
    assert complaint in said
    assert said.count("\n") == 1


def test_without_a_stack_it_says_how_to_start_one(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    code, said = run(capsys, "--state-dir", str(tmp_path))
    assert code == 1
    assert "start one with `dspark up`" in said


def test_the_help_says_what_a_fixed_arm_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "A fixed arm drafts at most K tokens a step and verifies them all" in " ".join(
        capsys.readouterr().out.split()
    )
