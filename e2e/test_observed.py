"""What a running system shows of itself: a trace across its processes, its logs, its page."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.controller.browser import look, needs_browser
from tests.telemetry.otlp import Collector, a_collector

from e2e.conftest import stack_words
from e2e.stack import Stack, running_stack

pytestmark = pytest.mark.slow

PARENT = "b7ad6b7169203331"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PROMPT = "def read_lines(path):\n" * 12  # longer than what a verifier runs itself


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with a_collector() as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    model_words: list[str], collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    state_dir = tmp_path_factory.mktemp("state")
    words = [
        *stack_words(model_words, state_dir),
        "--set", f"telemetry.otlp_endpoint={collector.url}", "--set", "telemetry.log_format=json",
    ]  # fmt: skip
    with running_stack(state_dir, words) as running:
        yield running


def test_one_request_is_one_trace_across_gateway_verifier_and_prefill(
    stack: Stack, collector: Collector
) -> None:
    answer = httpx.post(
        f"{stack.url}/v1/completions",
        json={"model": "dspark-demo", "prompt": PROMPT, "max_tokens": 48, "temperature": 0},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
        timeout=120.0,
        trust_env=False,
    )
    assert answer.is_success, answer.text
    names = {
        "POST /v1/completions", "VerifyService/Generate", "generate", "prompt", "prefill", "decode",
    }  # fmt: skip
    got = collector.wait_for(names, timeout_s=30.0)
    assert {got[name].trace for name in names} == {TRACE}
    chain = ["POST /v1/completions", "VerifyService/Generate", "generate", "prompt", "prefill"]
    assert got[chain[0]].parent == PARENT
    for above, below in itertools.pairwise(chain):
        assert got[below].parent == got[above].id, f"{below} below {above}"
    assert got["decode"].parent == got["generate"].id
    assert [got[name].service for name in ("POST /v1/completions", "generate", "prefill")] == [
        "dspark-gateway", "dspark-verifier", "dspark-prefill",
    ]  # fmt: skip
    rounds = [attributes for name, attributes in got["decode"].events if name == "round"]
    assert rounds
    assert any(each["drafted"] for each in rounds), "nothing was drafted"
    assert got["generate"].attributes["gen_ai.usage.output_tokens"] == 48


def test_logs_are_json_lines(stack: Stack) -> None:
    for role in ("controller", "gateway"):
        lines = (stack.state_dir / "logs" / f"{role}.log").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        assert told
        assert {line["role"] for line in told} == {role}


@needs_browser
def test_the_page_draws_a_request_of_the_running_system(stack: Stack) -> None:
    picture = os.environ.get("DSPARK_PAGE_PICTURE")
    more = {} if picture is None else {"picture": str(Path(picture).resolve())}
    plain = stack.complete(PROMPT, max_tokens=48, temperature=0)["choices"][0]["text"]
    seen = look("draft", stack.record["api"], prompt=PROMPT, tokens=48, **more)
    assert seen["complaints"] == []
    assert seen["chips"]["accepted"], "nothing was drafted and accepted"
    assert seen["text"].split() == f"{PROMPT}{plain}".split(), "the text of a request without trace"
    assert "drafted rounds" in seen["said"]
