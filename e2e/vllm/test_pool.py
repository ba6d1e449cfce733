"""The whole system with vLLM as its verifier pool, driven by what a user has."""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from e2e.stack import ROOT, Stack, dspark, running_stack, wait_until
from e2e.vllm.drafters import free_port
from e2e.vllm.http import Api, metric
from e2e.vllm.prompts import NUM_TOKENS, prompts

Outputs = dict[str, list[tuple[int, ...]]]

NUM_PROMPTS = 32


@pytest.fixture(scope="module")
def stack(plain: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    state_dir = tmp_path_factory.mktemp("state")
    words = [
        "--config", str(ROOT / "configs" / "demo-vllm.yaml"),
        "--state-dir", str(state_dir),
        "--port", str(free_port()),
        "--set", f"controller.port={free_port()}",
        "--set", "start_timeout_s=540",
        "--set", f"pools.verifier.vllm.python={sys.executable}",
        "--set", "pools.verifier.settings.profile_repeats=1",
        # Draft also where it does not pay: this machine is shared.
        "--set", "controller.off_gain=1000",
    ]  # fmt: skip
    with running_stack(state_dir, words) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack.url)


def _expected(plain: Outputs, count: int = NUM_PROMPTS) -> dict[int, tuple[int, ...]]:
    """Plain vLLM's outputs where they do not depend on the batch."""
    stable = {i: plain["1"][i] for i in range(count) if plain["1"][i] == plain["8"][i]}
    assert len(stable) > count / 2
    return stable


def _same(outputs: list[tuple[int, ...]], plain: Outputs) -> bool:
    expected = _expected(plain, len(outputs))
    return {i: outputs[i] for i in expected} == expected


def _drafted(answer: dict[str, Any]) -> int:
    return int(answer["metrics"]["dspark"]["drafted_tokens"])


def _verifier(stack: Stack) -> dict[str, Any]:
    (replica,) = stack.pool("verifier")["replicas"]
    return dict(replica)


def test_the_pool_says_what_plain_vllm_says_under_the_controllers_budget(
    stack: Stack, api: Api, plain: Outputs
) -> None:
    given = prompts(NUM_PROMPTS)
    assert _same(api.tokens(given, at_once=1), plain)
    assert _same(api.tokens(given, at_once=8), plain)
    pool, replica = stack.pool("verifier"), _verifier(stack)
    assert pool["budget"] is not None
    wait_until(lambda: bool(_verifier(stack)["budget_epoch"]), timeout_s=30, what="a budget")
    assert pool["since_start"]["accepted_length"] > 1.5
    address = replica["metrics_address"]
    rounds = metric(address, "vllm:spec_decode_num_drafts_total")
    tau = 1 + metric(address, "vllm:spec_decode_num_accepted_tokens_total") / rounds
    print(f"\npool: accepted length {tau:.2f} over {rounds:.0f} rounds")
    assert tau > 1.5
    assert metric(address, "vllm:generation_tokens_total") > NUM_PROMPTS * NUM_TOKENS
    assert metric(address, "dspark_verification_budget_epoch") > 0


def test_an_answer_counts_its_drafts_and_a_trace_shows_them(api: Api) -> None:
    answer = api.complete("import os\n")
    counts = answer["metrics"]["speculative_decoding"]
    assert counts["mean_acceptance_length"] > 1
    assert counts["num_spec_tokens"] == 7
    assert (
        api.complete("import os\n", speculation={"enabled": False})["choices"][0]["token_ids"]
        == answer["choices"][0]["token_ids"]
    )
    short = api.complete("import os\n", speculation={"max_draft_tokens": 2})
    spec = short["metrics"]["speculative_decoding"]
    assert short["choices"][0]["token_ids"] == answer["choices"][0]["token_ids"]
    assert 0 < spec["num_draft_tokens"] <= 2 * spec["num_spec_steps"]
    with httpx.stream(
        "POST",
        f"{api.url}/v1/completions",
        json={
            "model": api.model, "prompt": "import os\n", "temperature": 0, "stream": True,
            "max_tokens": NUM_TOKENS, "speculation": {"trace": True},
        },
        timeout=60.0,
        trust_env=False,
    ) as stream:  # fmt: skip
        text = stream.read().decode()
    assert '"accepted"' in text
    assert '"confidence' in text


@pytest.mark.parametrize(
    "rules",
    [
        {"frequency_penalty": 0.7},
        {"presence_penalty": 1.0},
        {"repetition_penalty": 1.3},
        {"logprobs": 3},
        {"structured_outputs": {"regex": "[0-9]{4}-[a-f]{3}"}},
    ],
)
def test_what_bends_the_logits_does_so_with_drafts_as_without(
    api: Api, rules: dict[str, Any]
) -> None:
    for prompt in ("def fibonacci(n):", "A table of numbers: "):
        on = api.complete(prompt, **rules)
        off = api.complete(prompt, **rules, speculation={"enabled": False})
        assert _drafted(on) > 0
        assert _drafted(off) == 0
        assert on["choices"][0]["token_ids"] == off["choices"][0]["token_ids"]
        if "logprobs" in rules:
            pairs = zip(
                on["choices"][0]["logprobs"]["token_logprobs"],
                off["choices"][0]["logprobs"]["token_logprobs"],
                strict=True,
            )
            assert all(abs(a - b) < 1e-3 for a, b in pairs)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"temperature": 0.8, "seed": 3}, "speculation.mode"),
        ({"temperature": 0.8, "speculation": {"mode": "coupled"}}, "speculation.mode"),
        ({"temperature": 0.8, "min_p": 0.1}, "min_p"),
        ({"logit_bias": {"5": 3.0}}, "logit_bias"),
        ({"max_tokens": 1500}, "1024"),
    ],
)
def test_what_vllm_cannot_do_is_refused_by_name(api: Api, body: dict[str, Any], named: str) -> None:
    answer = api.ask("import os\n", **body)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


def test_sampling_goes_by_rejection_and_takes_drafts(api: Api) -> None:
    answers = [api.complete("import os\n", temperature=0.8) for _ in range(8)]
    assert len({tuple(answer["choices"][0]["token_ids"]) for answer in answers}) > 1
    assert sum(map(_drafted, answers)) > 0


def test_a_policy_stops_drafting_and_its_rollback_resumes_it(
    stack: Stack, api: Api, plain: Outputs
) -> None:
    (prompt,) = prompts(1)
    where = ("--state-dir", str(stack.state_dir))

    def drafts() -> bool:
        answer = api.complete(prompt)
        assert tuple(answer["choices"][0]["token_ids"]) == plain["1"][0]
        return _drafted(answer) > 0

    assert drafts()
    dspark("budget", "set", "--pool", "verifier", "--mode", "off", "--reason", "a test", *where)
    wait_until(lambda: not drafts(), timeout_s=30, what="no drafts")
    dspark("budget", "rollback", "--pool", "verifier", *where)
    wait_until(drafts, timeout_s=30, what="drafts again")


def test_without_drafters_it_says_the_same_and_with_them_again_too(
    stack: Stack, api: Api, plain: Outputs
) -> None:
    given = prompts(8)
    stack.scale("drafter", 0)
    wait_until(
        lambda: stack.pool("drafter")["ready_replicas"] == 0, timeout_s=60, what="no drafter"
    )
    wait_until(lambda: _drafted(api.complete(given[0])) == 0, timeout_s=30, what="no drafts")
    assert _same(api.tokens(given, at_once=4), plain)
    stack.scale("drafter", 1)
    wait_until(lambda: _drafted(api.complete(given[0])) > 0, timeout_s=120, what="drafts again")
    assert _same(api.tokens(given, at_once=4), plain)


def test_clients_that_leave_leave_nothing_behind(stack: Stack, api: Api) -> None:
    for prompt in prompts(12):
        with httpx.stream(
            "POST",
            f"{api.url}/v1/completions",
            json={
                "model": api.model, "prompt": prompt, "temperature": 0, "stream": True,
                "max_tokens": 700, "ignore_eos": True,
            },
            timeout=60.0,
            trust_env=False,
        ) as stream:  # fmt: skip
            list(itertools.islice(stream.iter_lines(), 4))

    def idle() -> bool:
        replica = _verifier(stack)
        return (
            replica["active_sessions"] + replica["waiting_sessions"] == 0
            and replica["free_pages"] == replica["total_pages"]
        )

    wait_until(idle, timeout_s=30, what="an idle verifier")


def test_a_replica_whose_engine_died_is_replaced(stack: Stack, api: Api, plain: Outputs) -> None:
    before = _verifier(stack)
    engine = psutil.Process(before["pid"]).children(recursive=True)
    workers = [process for process in engine if "VLLM::" in " ".join(process.cmdline())]
    assert workers
    workers[-1].kill()

    def replaced() -> bool:
        replicas = stack.pool("verifier")["replicas"]
        return [r["state"] for r in replicas] == ["ready"] and replicas[0]["pid"] != before["pid"]

    wait_until(replaced, timeout_s=300, what="another replica")
    assert not any(process.is_running() for process in workers)
    assert _same(api.tokens(prompts(4), at_once=1), plain)
