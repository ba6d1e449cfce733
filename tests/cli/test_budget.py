import json
import threading
from collections.abc import Iterator

import pytest

from dspark.cli.budget import seconds
from dspark.cli.budget_view import draw
from dspark.cli.control_api import TOKEN_VARIABLE, ControlApi
from dspark.cli.main import main
from dspark.config.controller import ApiToken, ControllerSettings
from dspark.controller.api.tokens import digest
from tests.controller.served import a_controller, served_api

SETTINGS = ControllerSettings(max_cohorts=1, activation_sessions=1, dwell_s=0.0)


@pytest.fixture
def url() -> Iterator[str]:
    with served_api(a_controller(SETTINGS)) as served:
        yield served


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def run(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == expect, said.err
    return said.err if expect else said.out


def test_set_show_history_rollback_and_clear(capsys: pytest.CaptureFixture[str], url: str) -> None:
    at = ("--url", url)
    said = run(
        capsys, "budget", "set", "--pool", "verifier", "--cap", "2", "--ttl", "10s",
        "--reason", "a peak", *at,
    )  # fmt: skip
    assert said == "verifier: change 1 auto, cap 2 for 10 s\n"
    (pool,) = json.loads(run(capsys, "budget", "show", "--json", *at))["pools"]
    assert (pool["pool"], pool["policy"]["cap"], pool["layers"][0]["reason"]) == (
        "verifier", 2, "a peak",
    )  # fmt: skip
    shown = run(capsys, "budget", "show", "--pool", "verifier", *at)
    assert "cap 2 (a peak)" in shown
    assert "Theta" in shown
    run(capsys, "budget", "set", "--pool", "verifier", "--mode", "off", "--reason", "x", *at)
    undone = run(capsys, "budget", "rollback", "--pool", "verifier", *at)
    assert undone == "verifier: change 3 auto, cap 2 (change 2 is undone)\n"
    run(capsys, "budget", "clear", "--pool", "verifier", "--reason", "over", *at)
    changes = json.loads(run(capsys, "budget", "history", "--json", *at))["changes"]
    assert [change["reason"] for change in changes] == [
        "over", "dspark budget rollback", "x", "a peak",
    ]  # fmt: skip
    table = run(capsys, "budget", "history", *at)
    assert "rollback of 2" in table


def test_promises_weights_and_canaries_are_said_as_they_were_asked(
    capsys: pytest.CaptureFixture[str], url: str
) -> None:
    at = ("--pool", "verifier", "--reason", "x", "--url", url)
    said = run(
        capsys, "budget", "set", "--min-tokens-per-s", "30", "--weight", "10=0.5", "--weight",
        "-1=2", *at,
    )  # fmt: skip
    assert said == (
        "verifier: change 1 auto, min tokens per s 30, weight 2 of priority -1, "
        "weight 0.5 of priority 10\n"
    )
    run(capsys, "budget", "set", "--cap", "1", "--canary-share", "0.1", *at)
    (pool,) = json.loads(run(capsys, "budget", "show", "--json", "--url", url))["pools"]
    assert (pool["policy"]["min_tokens_per_s"], pool["policy"]["cap"]) == (30, None)
    assert pool["layers"][-1]["policy"]["canary_share"] == 0.1
    supposed = run(capsys, "budget", "whatif", "--pool", "verifier", "--min-tokens-per-s", "1e9",
                   "--url", url, expect=1)  # fmt: skip
    assert "min_tokens_per_s" in supposed
    table = run(capsys, "budget", "whatif", "--pool", "verifier", "--min-tokens-per-s", "90000",
                "--url", url)  # fmt: skip
    assert "promise" in table
    assert "missed" in table


def test_a_dry_run_and_what_if_change_nothing(capsys: pytest.CaptureFixture[str], url: str) -> None:
    at = ("--pool", "verifier", "--url", url)
    said = run(capsys, "budget", "set", "--draft-tokens", "3", "--reason", "x", "--dry-run", *at)
    assert "would be pinned, draft tokens 3" in said
    found = json.loads(run(capsys, "budget", "whatif", "--mode", "off", "--json", *at))
    assert found["supposed"]["accepted_length"] == 1.0
    assert "tokens/s a user" in run(capsys, "budget", "whatif", "--replicas", "2", *at)
    assert json.loads(run(capsys, "budget", "history", "--json", "--url", url))["changes"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cap", "1", "--floor", "2"), "floor 2 is above cap 1"),
        (("--mode", "pinned"), "mode pinned needs it"),
        (("--cap", "1", "--ttl", "soon"), "expected a duration like 10s"),
        (("--weight", "urgent=2"), "expected PRIORITY=WEIGHT, like 10=0.5"),
        (("--canary-share", "2"), "canary_share"),
    ],
)
def test_nonsense_is_one_line_and_1(
    capsys: pytest.CaptureFixture[str], url: str, words: tuple[str, ...], said: str
) -> None:
    err = run(
        capsys, "budget", "set", "--pool", "verifier", "--reason", "x", "--url", url, *words,
        expect=1,
    )  # fmt: skip
    assert said in err
    assert err.count("\n") == 1


def test_an_unknown_pool_names_the_known_ones(capsys: pytest.CaptureFixture[str], url: str) -> None:
    err = run(capsys, "budget", "show", "--pool", "gpus", "--url", url, expect=1)
    assert "verifier pools: verifier" in err


def test_a_controller_that_is_gone_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    err = run(capsys, "budget", "show", "--url", "http://127.0.0.1:9", expect=1)
    assert "does not answer" in err
    assert err.count("\n") == 1


def test_a_reason_is_asked_for(capsys: pytest.CaptureFixture[str], url: str) -> None:
    words = ("budget", "set", "--pool", "verifier", "--cap", "1", "--url", url)
    assert "--reason" in run(capsys, *words, expect=2)


def test_the_token_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ApiToken(name="ada", role="viewer", sha256=digest("secret"))
    settings = SETTINGS.model_copy(update={"api_tokens": (known,)})
    with served_api(a_controller(settings)) as url:
        assert TOKEN_VARIABLE in run(capsys, "budget", "--help")
        assert "token" in run(capsys, "budget", "show", "--url", url, expect=1)
        monkeypatch.setenv(TOKEN_VARIABLE, "secret")
        run(capsys, "budget", "show", "--url", url)
        words = ("budget", "clear", "--pool", "verifier", "--url", url)
        assert "role viewer may not do this" in run(capsys, *words, expect=1)


def test_a_made_token_fits_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "budget", "token", "ada", "--role", "operator")
    secret = said.splitlines()[0].split(": ")[1]
    assert f"sha256: {digest(secret)}" in said
    assert said.count(secret) == 1


def test_what_happens_is_streamed(url: str) -> None:
    seen: list[dict[str, object]] = []

    def listen() -> None:
        seen.append(next(ControlApi(url).events()))

    listener = threading.Thread(target=listen)
    listener.start()
    api = ControlApi(url)
    while listener.is_alive():  # it may not listen yet
        api.change("PUT", "verifier", body={"policy": {"cap": 1}, "reason": "a test"})
        listener.join(0.05)
    assert (seen[0]["kind"], seen[0]["pool"]) == ("policy", "verifier")


def test_top_shows_the_fleet_once(capsys: pytest.CaptureFixture[str], url: str) -> None:
    shown = run(capsys, "top", "--once", "--url", url)
    assert "0.90 0.80 0.70" in shown
    assert json.loads(run(capsys, "top", "--json", "--url", url))["pools"][1]["name"] == "verifier"


def test_a_curve_is_drawn_in_a_line_of_bars() -> None:
    assert draw([0.0, 1.0]) == "▁█"
    assert draw([5.0, 5.0]) == "▁▁"
    assert len(draw([float(i) for i in range(1000)])) <= 60


@pytest.mark.parametrize(("text", "expected"), [("10s", 10.0), ("1.5m", 90.0), ("2h", 7200.0)])
def test_durations_have_units(text: str, expected: float) -> None:
    assert seconds(text) == expected
