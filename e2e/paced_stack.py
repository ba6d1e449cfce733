"""A stack of paced engines under load: real processes, steps that are slept, streams that count."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from e2e.conftest import free_port
from e2e.equality import Run, generate_all
from e2e.stack import ROOT, Stack

MODEL = "paced-qwen3-4b-h100"


def paced_words(state_dir: Path, *settings: str) -> list[str]:
    """Options of ``dspark up``: paced engines without a prefill pool, free ports, own state."""
    given = (
        f"controller.port={free_port()}",  # a later setting goes before an earlier one
        "start_timeout_s=540",
        # Short lives, so that a story does not take long.
        "pools.prefill.replicas=0",
        "pools.verifier.settings.local_prefill_tokens=4096",
        "pools.drafter.settings.drain_s=10",
        # Draft wherever it can be: whether it pays is not the story.
        "controller.off_gain=1000",
        *settings,
    )
    return [
        "--config", str(ROOT / "configs" / "paced.yaml"),
        "--state-dir", str(state_dir),
        "--port", str(free_port()),
        *(word for setting in given for word in ("--set", setting)),
    ]  # fmt: skip


def pool(stack: Stack, name: str, api: str | None = None) -> dict[str, Any]:
    """One pool as the control API has it."""
    url = f"{api or stack.record['api']}/v1/pools/{name}"
    found: dict[str, Any] = httpx.get(url, trust_env=False, timeout=20.0).json()
    return found


def generate(stack: Stack, prompts: Sequence[str], *, tokens: int, mode: str) -> Run:
    """Generate every prompt at once."""
    return asyncio.run(
        generate_all(
            stack.url, MODEL, prompts, tokens=tokens, temperature=0.9, mode=mode,
            concurrency=len(prompts),
        )
    )  # fmt: skip


@dataclass
class Load:
    """Generates the same prompts over and over, in the background."""

    stack: Stack
    prompts: Sequence[str]
    tokens: int
    runs: list[Run] = field(default_factory=list)
    failure: BaseException | None = None

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._generate)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def same_as(self, plain: Run) -> bool:
        """Whether every stream of every run ended well, with the tokens of ``plain``."""
        count = len(self.prompts)
        return (
            self.failure is None
            and bool(self.runs)
            and all(run.same_as(plain) == count for run in self.runs)
        )

    def _generate(self) -> None:
        try:
            while not self._stop.is_set():
                self.runs.append(generate(self.stack, self.prompts, tokens=self.tokens, mode="on"))
        except BaseException as error:
            self.failure = error
