"""One stack, many stories; the last ones take it apart."""

import asyncio
import json
import os
import signal
from pathlib import Path

import openai
import psutil
import pytest

from e2e.equality import compare, generate_all, load_prompts
from e2e.stack import ROOT, Stack, drafted_steps, dspark, wait_until

pytestmark = pytest.mark.slow

_DEMO = ROOT / "services" / "dspark" / "demo"
PROMPT = "def mean(values):\n"


def test_the_openai_client_streams_what_it_would_get_whole(stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="unused", max_retries=0)
    asked = {"model": "dspark-demo", "max_tokens": 40, "temperature": 0.8, "seed": 5}
    whole = client.completions.create(prompt=PROMPT, **asked)
    pieces = [
        chunk.choices[0].text
        for chunk in client.completions.create(prompt=PROMPT, stream=True, **asked)
        if chunk.choices
    ]
    assert "".join(pieces) == whole.choices[0].text
    assert len(pieces) > 1
    turns = [{"role": "user", "content": "What is a list?"}]
    chat = client.chat.completions.create(messages=turns, **asked)
    assert chat.choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt=PROMPT)


def test_three_deployments_run_in_processes_of_their_own(stack: Stack) -> None:
    status = stack.status()
    assert status["phase"] == "ready"
    assert {pool["name"] for pool in status["pools"]} == {"prefill", "drafter", "verifier"}
    pids = {name: child["pid"] for name, child in status["processes"].items()}
    for pool in status["pools"]:
        assert pool["serve"]["state"] == "RUNNING"
        (replica,) = pool["replicas"]
        assert replica["state"] == "ready"
        assert f"dspark-{pool['name']}" in " ".join(psutil.Process(replica["pid"]).cmdline())
        pids[pool["name"]] = replica["pid"]
    assert len(set(pids.values())) == 6, pids


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
async def test_drafting_changes_no_byte(stack: Stack, temperature: float, concurrency: int) -> None:
    results = await compare(
        stack.url,
        "dspark-demo",
        load_prompts(8),
        tokens=32,
        temperatures=[temperature],
        concurrencies=[concurrency],
    )
    assert [(run.mode, same) for run, same in results] == [
        ("off", 8),
        ("on", 8),
        ("capped at 2", 8),
    ]
    _, (drafted, _), _ = results
    assert drafted.accepted_length is not None, "nothing was drafted"


async def test_prompts_longer_than_a_chunk_come_through_the_prefill_pool(stack: Stack) -> None:
    before = stack.complete("x = 1\n" * 60, max_tokens=16, temperature=0)
    assert before["usage"]["prompt_tokens"] > 100
    stack.scale("prefill", 0)
    wait_until(
        lambda: not stack.pool("prefill")["replicas"], timeout_s=180, what="no prefill replica"
    )
    after = stack.complete("x = 1\n" * 60, max_tokens=16, temperature=0)
    assert after["choices"][0]["text"] == before["choices"][0]["text"]
    stack.scale("prefill", 1)


def test_bytes_of_a_session_are_rows_and_tokens_only(stack: Stack, model_words: list[str]) -> None:
    answer = stack.complete(PROMPT, max_tokens=48, temperature=0, ignore_eos=True)
    moved, usage = answer["metrics"]["dspark"], answer["usage"]
    steps = drafted_steps(answer)
    assert steps > 0
    row = 2 * _hidden_size(model_words)  # half precision
    assert moved["row_bytes"] % row == 0
    # Every position is sent once; a session that had to be seeded again sends more.
    assert 0 < moved["row_bytes"] <= 2 * row * usage["total_tokens"]
    # A token and a confidence a draft, and the frame around them.
    assert moved["draft_bytes"] < 20 * moved["drafted_tokens"] + 64 * (steps + 1)


async def test_streams_survive_the_loss_of_the_drafter_pool(stack: Stack) -> None:
    prompts = load_prompts(4)
    plain = await generate_all(
        stack.url, "dspark-demo", prompts, tokens=192, temperature=0.9, mode="off", concurrency=4
    )
    (victim,) = stack.pool("drafter")["replicas"]
    running = asyncio.create_task(
        generate_all(
            stack.url, "dspark-demo", prompts, tokens=192, temperature=0.9, mode="on", concurrency=4
        )
    )
    await asyncio.sleep(0.3)
    os.kill(victim["pid"], signal.SIGKILL)
    await asyncio.to_thread(stack.scale, "drafter", 0)
    drafted = await running
    assert drafted.same_as(plain) == len(prompts)


def test_status_shows_the_empty_pool_and_generation_goes_on(stack: Stack) -> None:
    wait_until(
        lambda: not stack.pool("drafter")["replicas"], timeout_s=180, what="no drafter replica"
    )
    assert stack.pool("drafter")["wanted_replicas"] == 0
    assert drafted_steps(stack.complete(PROMPT, max_tokens=16, temperature=0)) == 0


def test_a_new_drafter_is_used_again(stack: Stack) -> None:
    stack.scale("drafter", 1)
    wait_until(
        lambda: stack.pool("drafter")["ready_replicas"] == 1, timeout_s=300, what="a new drafter"
    )
    wait_until(
        lambda: drafted_steps(stack.complete(PROMPT, max_tokens=16, temperature=0)) > 0,
        timeout_s=120,
        what="the new drafter is used",
    )


def test_a_killed_controller_costs_no_request_and_comes_back(stack: Stack) -> None:
    status = stack.status()
    os.kill(status["processes"]["controller"]["pid"], signal.SIGKILL)
    assert stack.complete(PROMPT, max_tokens=16, temperature=0)["choices"][0]["text"]

    def back() -> bool:
        now = stack.status()
        ready = [pool["ready_replicas"] for pool in now["pools"]]
        return bool(now["controller"]["reachable"]) and ready == [1, 1, 1]

    wait_until(back, timeout_s=300, what="the controller is back and knows every replica")
    assert stack.status()["processes"]["controller"]["restarts"] == 1


def test_a_port_in_use_is_one_line(stack: Stack, tmp_path: Path) -> None:
    port = stack.url.rsplit(":", 1)[1]
    done = dspark("up", "--port", port, "--state-dir", str(tmp_path), "--set", "controller.port=0")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"port {port}" in line
    assert "--port" in line


def test_a_second_stack_in_the_same_folder_is_refused(stack: Stack) -> None:
    done = dspark("up", *stack.words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "already runs" in line


def _hidden_size(model_words: list[str]) -> int:
    named = [word.removeprefix("model.target=") for word in model_words if "model.target" in word]
    folder = Path(named[0]) if named else _DEMO / "target"
    return int(json.loads((folder / "config.json").read_text())["hidden_size"])
