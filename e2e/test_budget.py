"""An operator bounds the budget of a system under load, and takes it back."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field

import httpx
import pytest

from e2e.equality import Run, generate_all, load_prompts
from e2e.stack import Stack, dspark, wait_until

pytestmark = pytest.mark.slow

CAP = 1


@dataclass
class Sample:
    """The verifier pool at one moment."""

    cap: int | None
    verified: float | None


@dataclass
class UnderLoad:
    """Keeps generating the same prompts, and looks at the pool all the while."""

    stack: Stack
    prompts: list[str]
    runs: list[Run] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def generate(self) -> None:
        while not self.stop.is_set():
            self.runs.append(run(self.stack, self.prompts, mode="on"))

    def look(self) -> None:
        api = f"{self.stack.record['api']}/v1/pools/verifier"
        while not self.stop.is_set():
            pool = httpx.get(api, trust_env=False, timeout=20.0).json()
            cap, verified = pool["policy"]["cap"], pool["verified_tokens_per_step"]
            self.samples.append(Sample(cap=cap, verified=verified))
            time.sleep(0.2)

    def last(self, count: int) -> list[Sample]:
        return self.samples[-count:] if len(self.samples) >= count else []


def run(stack: Stack, prompts: list[str], *, mode: str) -> Run:
    return asyncio.run(
        generate_all(
            stack.url, "dspark-demo", prompts, tokens=96, temperature=0.9, mode=mode,
            concurrency=len(prompts),
        )
    )  # fmt: skip


def budget(stack: Stack, *words: str) -> str:
    done = dspark("budget", *words, "--state-dir", str(stack.state_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_cap_with_a_life_is_felt_and_ends_and_changes_no_output(stack: Stack) -> None:
    prompts = load_prompts(4)
    plain = run(stack, prompts, mode="off")
    load = UnderLoad(stack, prompts)
    threads = [threading.Thread(target=work) for work in (load.generate, load.look)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: above(load.last(3)), timeout_s=120, what="drafts are verified")
        budget(
            stack, "set", "--pool", "verifier", "--cap", str(CAP), "--ttl", "10s",
            "--reason", "a peak",
        )  # fmt: skip
        wait_until(
            lambda: any(sample.cap == CAP for sample in load.samples), timeout_s=60, what="a cap"
        )
        wait_until(lambda: load.samples[-1].cap is None, timeout_s=60, what="the cap ends")
        wait_until(lambda: above(load.last(3)), timeout_s=120, what="drafts are verified again")
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()
    capped = [sample for sample in load.samples if sample.cap == CAP and sample.verified]
    assert capped, "steps were run under the cap"
    # The newest report may still be of steps from before the cap: the last ones are not.
    assert (capped[-1].verified or 0.0) <= CAP
    assert load.runs
    assert all(one.same_as(plain) == len(prompts) for one in load.runs)
    changes = json.loads(budget(stack, "history", "--json"))["changes"]
    assert [change["action"] for change in changes] == ["expire", "set"]
    assert changes[1]["reason"] == "a peak"


def test_a_change_is_rolled_back_in_one_call(stack: Stack) -> None:
    budget(stack, "set", "--pool", "verifier", "--mode", "off", "--reason", "a suspicion")
    (pool,) = json.loads(budget(stack, "show", "--json"))["pools"]
    assert pool["policy"]["mode"] == "off"
    budget(stack, "rollback", "--pool", "verifier")
    (pool,) = json.loads(budget(stack, "show", "--json"))["pools"]
    assert pool["policy"]["mode"] == "auto"
    assert "Theta" in budget(stack, "show")


def above(samples: list[Sample]) -> bool:
    return any((sample.verified or 0.0) > 2 * CAP for sample in samples if sample.cap is None)
