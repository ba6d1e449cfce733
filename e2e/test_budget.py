"""An operator bounds the budget of a system under load, takes it back, and loses what can be lost.

Two verifiers and two drafters (paced), two controllers, a Redis.  Streams run all the while, and
their tokens are those of a system in which nothing of this happened.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from tests.controller.redis_server import RedisServer, a_redis

from dspark.cli.stack.sweep import marked_processes
from e2e.conftest import free_port
from e2e.equality import load_prompts
from e2e.paced_stack import Load, generate, paced_words
from e2e.stack import Stack, dspark, environment, wait_until

pytestmark = pytest.mark.slow

CAP, TOKENS, PROMPTS = 1, 96, 6


@dataclass(frozen=True)
class System:
    """The stack with its store, and where its two controllers serve the control API."""

    stack: Stack
    redis: RedisServer
    standby_api: str

    @property
    def first_api(self) -> str:
        """Of the controller that the stack started."""
        return str(self.stack.record["api"])


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    state_dir = tmp_path_factory.mktemp("state")
    port, second, second_api = free_port(), free_port(), free_port()
    both = f"ipv4:127.0.0.1:{port},127.0.0.1:{second}"
    with a_redis() as redis:
        words = paced_words(
            state_dir,
            f"controller.port={port}",
            f"controller.store={redis.url}",
            f"endpoint.controller={both}",
            f"gateway.controller={both}",
            "pools.verifier.replicas=2",
            "pools.drafter.replicas=2",
        )
        stack = Stack(state_dir=state_dir, words=words)
        stack.up()
        settings = json.loads((state_dir / "controller.json").read_text())
        settings |= {"port": second, "api_port": second_api, "metrics_port": 0}
        command = [sys.executable, "-m", "dspark.controller", "--config-json", json.dumps(settings)]
        with (state_dir / "standby.log").open("wb") as log:
            standby = subprocess.Popen(command, env=environment(), stderr=log)
        try:
            yield System(stack, redis, f"http://127.0.0.1:{second_api}")
        finally:
            standby.kill()
            standby.wait(10)
            stack.down()
            assert marked_processes(stack.mark) == []


@dataclass
class Sample:
    """The verifier pool at one moment."""

    cap: int | None
    mode: str
    verified: float | None


@dataclass
class Looker:
    """Looks at the pool all the while, at whichever controller leads."""

    system: System
    samples: list[Sample] = field(default_factory=list)

    def __enter__(self) -> "Looker":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def last(self, count: int) -> list[Sample]:
        return self.samples[-count:] if len(self.samples) >= count else []

    def _look(self) -> None:
        while not self._stop.is_set():
            api = leader(self.system)
            found = None if api is None else ask("GET", f"{api}/v1/pools/verifier")
            if found is not None and found.status_code == 200:
                pool = found.json()
                policy = pool["policy"]
                self.samples.append(
                    Sample(
                        cap=policy["cap"],
                        mode=policy["mode"],
                        verified=pool["verified_tokens_per_step"],
                    )
                )
            time.sleep(0.2)


def ask(method: str, url: str, **more: Any) -> httpx.Response | None:
    """Ask a controller; None where it does not answer."""
    try:
        return httpx.request(method, url, trust_env=False, timeout=20.0, **more)
    except httpx.HTTPError:
        return None


def leader(system: System) -> str | None:
    """Where the controller that leads serves the control API."""
    for api in (system.first_api, system.standby_api):
        found = ask("GET", f"{api}/v1/fleet")
        if found is not None and found.status_code == 200:
            return api
    return None


def term(system: System) -> int:
    """Of the controller that leads; 0 while none does."""
    api = leader(system)
    found = None if api is None else ask("GET", f"{api}/v1/fleet")
    return 0 if found is None or found.status_code != 200 else int(found.json()["term"])


def set_cap(system: System, cap: int) -> httpx.Response | None:
    """Cap the budget at whichever controller leads."""
    api = leader(system)
    body = {"policy": {"cap": cap}, "reason": "a test", "ttl_s": 600.0}
    return None if api is None else ask("PUT", f"{api}/v1/pools/verifier/policy", json=body)


def status_of(answer: httpx.Response | None) -> int:
    return 0 if answer is None else answer.status_code


def budget(system: System, *words: str) -> str:
    """``dspark budget`` at whichever controller leads."""
    api = leader(system)
    assert api is not None
    done = dspark("budget", *words, "--url", api)
    assert done.returncode == 0, done.stderr
    return done.stdout


def above(samples: list[Sample]) -> bool:
    return any((sample.verified or 0.0) > 2 * CAP for sample in samples if sample.cap is None)


def nothing(samples: list[Sample]) -> bool:
    return bool(samples) and all(one.mode == "off" and not one.verified for one in samples)


def controller_pid(system: System) -> int:
    """Of the controller that the stack started, as it is now."""
    record = json.loads((system.stack.state_dir / "stack.json").read_text())
    return int(record["children"]["controller"]["pid"])


def test_an_operators_day_changes_no_output(system: System) -> None:
    prompts = load_prompts(PROMPTS)
    plain = generate(system.stack, prompts, tokens=TOKENS, mode="off")
    with Load(system.stack, prompts, TOKENS) as load, Looker(system) as looker:
        wait_until(lambda: above(looker.last(3)), timeout_s=120, what="drafts are verified")

        # A cap with a life is felt, and ends by itself.
        budget(system, "set", "--pool", "verifier", "--cap", str(CAP), "--ttl", "10s",
               "--reason", "a peak")  # fmt: skip
        wait_until(
            lambda: any(sample.cap == CAP for sample in looker.samples), timeout_s=60, what="a cap"
        )
        wait_until(lambda: looker.samples[-1].cap is None, timeout_s=60, what="the cap ends")
        wait_until(lambda: above(looker.last(3)), timeout_s=120, what="drafts are verified again")
        capped = [one for one in looker.samples if one.cap == CAP and one.verified is not None]

        # A change is undone in one call.
        budget(system, "set", "--pool", "verifier", "--mode", "off", "--reason", "a suspicion")
        wait_until(lambda: nothing(looker.last(3)), timeout_s=60, what="nothing is verified")
        budget(system, "rollback", "--pool", "verifier")
        wait_until(
            lambda: above(looker.last(3)), timeout_s=120, what="drafts are verified after it"
        )
        assert "Theta" in budget(system, "show")
        history = json.loads(budget(system, "history", "--json"))["changes"]
        assert [change["action"] for change in history] == ["rollback", "set", "expire", "set"]
        assert (history[3]["reason"], history[1]["reason"]) == ("a peak", "a suspicion")

        # The leader is lost.
        assert leader(system) == system.first_api
        before = term(system)
        os.kill(controller_pid(system), signal.SIGKILL)
        killed_s = time.monotonic()
        # The standby, or the first one, which is started again meanwhile: whoever was faster.
        wait_until(
            lambda: term(system) > before, timeout_s=60, what="another one leads", period_s=0.05
        )
        took_over = "standby" if leader(system) == system.standby_api else "successor"
        print(f"\nthe {took_over} leads {time.monotonic() - killed_s:.1f} s after kill -9")
        assert json.loads(budget(system, "history", "--json"))["changes"] == history
        served = len(load.runs)
        wait_until(lambda: len(load.runs) >= served + 2, timeout_s=120, what="streams go on")
        wait_until(lambda: above(looker.last(3)), timeout_s=120, what="drafts are verified by it")

        # The store is lost, and comes back empty.
        system.redis.stop()
        refused = set_cap(system, 3)
        assert refused is not None
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_lost"
        assert refused.json()["error"]["hint"]
        served = len(load.runs)
        wait_until(lambda: len(load.runs) >= served + 2, timeout_s=120, what="streams still go on")
        wait_until(
            lambda: above(looker.last(3)), timeout_s=120, what="drafts are verified without a store"
        )
        system.redis.start()
        wait_until(
            lambda: status_of(set_cap(system, 3)) == 200, timeout_s=60, what="changes are taken"
        )
        wait_until(
            lambda: any(one.cap == 3 for one in looker.last(3)),
            timeout_s=60,
            what="the new cap",
        )
    assert capped, "steps were run under the cap"
    # The newest report may still be of steps from before the cap: the last ones are not.
    assert (capped[-1].verified or 0.0) <= CAP
    assert load.same_as(plain), load.failure
    assert any(run.accepted_length is not None for run in load.runs), "nothing was drafted"
