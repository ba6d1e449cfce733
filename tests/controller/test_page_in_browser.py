"""The dashboard in a real browser, over a controller and a gateway in this process."""

from collections.abc import Iterator

import pytest

from dspark.config.controller import ApiToken, ControllerSettings
from dspark.controller.api.tokens import digest, new_token
from dspark.controller.loop import Controller
from dspark.controller.store import MemoryStore
from tests.controller.a_gateway import HOSTILE, Gateway, a_gateway
from tests.controller.browser import look, needs_browser
from tests.controller.served import a_controller, served_api

pytestmark = needs_browser


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with a_gateway() as running:
        yield running


@pytest.fixture
def url(gateway: Gateway) -> Iterator[str]:
    settings = ControllerSettings(
        max_cohorts=1, activation_sessions=1, dwell_s=0.0, gateway_url=gateway.url
    )
    with served_api(a_controller(settings), live=True) as running:
        yield running


def test_without_replicas_the_page_says_so() -> None:
    with served_api(Controller(ControllerSettings(), MemoryStore())) as url:
        seen = look("empty", url)
    assert seen["complaints"] == []
    assert "No verifier has registered yet" in seen["headline"]
    assert "No replica has registered yet" in seen["fleet"]


def test_budget_trend_policy_and_events_follow_what_happens(url: str) -> None:
    seen = look("running", url)
    assert seen["complaints"] == [], "nothing is refused by the page's own policy"
    assert seen["status"] == 200
    assert "1 verifier and 1 drafter serve 4 sessions" in seen["headline"]
    assert "policy: cap" in seen["budget"]
    assert "toy" in seen["budget"], "the device of the curve"
    assert seen["here"].split() == ["1", "4"], "in force, and what was planned"
    assert "budget 1" in seen["trend"]
    assert "v0" in seen["replicas"] or "d0" in seen["replicas"]
    assert "<b>a test</b>" in seen["policy"], "text stays text"
    assert seen["bold"] == 0


def test_a_request_is_drawn_token_by_token_and_hostile_output_stays_text(
    url: str, gateway: Gateway
) -> None:
    seen = look("draft", url, prompt="def", tokens=8)
    assert seen["complaints"] == []
    assert gateway.asked[0]["prompt"] == "def"
    assert seen["chips"]["accepted"] == ["·f", "("]
    assert seen["chips"]["rejected"] == ["x"]
    assert seen["chips"]["unverified"] == [")"]
    assert seen["chips"]["own"] == ["def", HOSTILE.replace(" ", "·")]
    assert seen["shade"] == "0.95"
    assert seen["text"].endswith(f"def f({HOSTILE}")
    assert (seen["images"], seen["title"]) == (0, "dspark")
    assert "τ 3.00" in seen["said"]
    assert "your own" in seen["acceptance"], "no kind is made up for it"


def test_a_token_is_asked_for_and_stays_in_the_tab() -> None:
    secret = new_token()
    token = ApiToken(name="a viewer", role="viewer", sha256=digest(secret))
    with served_api(a_controller(ControllerSettings(api_tokens=(token,)))) as url:
        seen = look("token", url, token=secret)
    assert seen["complaints"] == []
    assert (seen["before"], seen["wrong"], seen["after"]) == (False, True, False)
    assert seen["kept"] == [[secret], [], ""]


def test_a_lost_controller_is_said_and_what_was_known_stays(url: str) -> None:
    seen = look("lost", url)
    assert seen["pulse"].startswith("disconnected")
    assert "does not answer" in seen["notice"]
    assert (seen["still"], seen["back"], seen["complaints"]) == (True, False, [])


def test_it_fits_a_phone_in_the_dark(url: str) -> None:
    seen = look("phone", url, size={"width": 375, "height": 720}, scheme="dark")
    assert seen["sideways"] <= 0
    assert seen["paper"] == "rgb(22, 22, 20)"
    assert seen["complaints"] == []
