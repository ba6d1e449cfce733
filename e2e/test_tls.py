"""A stack in which no port speaks in the clear, and whose certificates change while it works."""

import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from dspark.cli.trust import credentials_of
from dspark.rpc.ask import fleet_snapshot
from e2e.conftest import stack_words
from e2e.stack import Stack, drafted_steps, dspark, running_stack, wait_until

pytestmark = pytest.mark.slow

PROMPT = "def mean(values):\n"
_FILES = ("certificate", "key", "authority")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of TLS, as `dspark certificates` makes them."""
    made = tmp_path_factory.mktemp("tls")
    renew(made)
    return made


@pytest.fixture(scope="module")
def stack(
    model_words: list[str], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    state_dir = tmp_path_factory.mktemp("state")
    words = stack_words(model_words, state_dir)
    for name in _FILES:
        words += ["--set", f"endpoint.tls.{name}={folder / name}.pem"]
    with running_stack(state_dir, words) as running:
        yield running


def renew(folder: Path) -> None:
    done = dspark("certificates", str(folder))
    assert done.returncode == 0, done.stderr


def client(stack: Stack, folder: Path) -> openai.OpenAI:
    """The official client, which believes the service's authority."""
    trusting = ssl.create_default_context(cafile=folder / "authority.pem")
    http = httpx.Client(verify=trusting, trust_env=False)
    return openai.OpenAI(
        base_url=f"{stack.url}/v1", api_key="unused", max_retries=0, http_client=http
    )


def ready(stack: Stack) -> dict[str, int]:
    """Ready replicas by pool; empty without a controller."""
    record = stack.record
    try:
        fleet = fleet_snapshot(
            record["controller"], credentials=credentials_of(record["tls"]), timeout_s=5.0
        )
    except ConnectionError:
        return {}
    return {str(pool.name): pool.ready_replicas for pool in fleet.pools}


def test_completions_come_over_https_with_drafts_accepted(stack: Stack, folder: Path) -> None:
    assert stack.url.startswith("https://")
    with client(stack, folder) as ours:
        answer = ours.completions.create(
            model="dspark-demo", prompt=PROMPT, max_tokens=32, temperature=0
        )
    assert drafted_steps(answer.model_dump()) > 0
    assert answer.model_dump()["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] > 0


def test_commands_find_their_stack(stack: Stack) -> None:
    status = stack.status()
    assert status["controller"]["reachable"], status["controller"]
    assert status["controller"]["api"].startswith("https://")
    assert status["policies"] is not None
    (verifier,) = [pool for pool in status["pools"] if pool["name"] == "verifier"]
    assert verifier["since_start"]["tokens"] > 0  # from its metrics, over HTTPS
    done = dspark("chat", "--max-tokens", "4", "Hello", "--state-dir", str(stack.state_dir))
    assert done.returncode == 0, done.stderr


def test_nobody_is_answered_in_the_clear(stack: Stack) -> None:
    status = stack.status()
    with pytest.raises(ConnectionError, match="does it want TLS"):
        fleet_snapshot(status["controller"]["address"], timeout_s=10.0)
    scraped = [
        replica["metrics_address"] for pool in status["pools"] for replica in pool["replicas"]
    ]
    fronts = [status["gateway"], status["controller"]["api"], status["metrics"]["controller"]]
    assert len(scraped) == 3
    for address in [*scraped, *(url.removeprefix("https://") for url in fronts)]:
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{address}/metrics", trust_env=False, timeout=10.0)


def test_everything_is_replaced_while_a_stream_runs(stack: Stack, folder: Path) -> None:
    asked = {"model": "dspark-demo", "prompt": PROMPT, "max_tokens": 200, "temperature": 0}
    with client(stack, folder) as before:
        whole = before.completions.create(**asked)
        stream = before.completions.create(**asked, stream=True)
        text = next(stream).choices[0].text
        for name in ("authority.pem", "authority.key"):
            (folder / name).unlink()
        renew(folder)
        # Who comes now has to believe the new authority, and is answered.
        with client(stack, folder) as after:
            assert after.models.list().data
        text += "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text == whole.choices[0].text
    # A controller that starts again knows the new authority alone: whoever comes back to it
    # shows a certificate of that one.
    pid = int(stack.status()["processes"]["controller"]["pid"])
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10.0)
    everybody = {"prefill": 1, "drafter": 1, "verifier": 1}
    wait_until(lambda: ready(stack) == everybody, timeout_s=60, what="all replicas are back")
    with client(stack, folder) as after:
        answer = after.completions.create(**asked)
    assert answer.choices[0].text == whole.choices[0].text
    assert drafted_steps(answer.model_dump()) > 0
