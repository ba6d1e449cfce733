"""Whether drafting changes the output of a running stack: it must not, by a single token.

    dspark up --detach
    python e2e/equality.py --prompts 200 --tokens 128 --concurrency 1,8

Every prompt is generated with drafting off, on, and capped at two tokens, greedily and at
temperature 0.9 with a seed of its own, at each concurrency.  The reference is drafting off at
the first concurrency.  Exit code 1 when anything differs.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dspark.cli.client import Outcome, open_client, stream
from dspark.cli.stack.record import default_state_dir, require_running

MODES: dict[str, dict[str, Any]] = {
    "off": {"enabled": False},
    "on": {"enabled": True},
    "capped at 2": {"enabled": True, "max_draft_tokens": 2},
}
_WORDS = ("the", "a", "list", "of", "return", "def", "class", "value", "number", "key", "object")


@dataclass(frozen=True)
class Run:
    """All prompts in one mode."""

    temperature: float
    mode: str
    concurrency: int
    outcomes: Sequence[Outcome]
    seconds: float

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return sum(len(outcome.token_ids) for outcome in self.outcomes)

    @property
    def accepted_length(self) -> float | None:
        """Mean tokens of a step that had a draft."""
        counts = [outcome.metrics.get("speculative_decoding") or {} for outcome in self.outcomes]
        steps = sum(count.get("num_spec_steps", 0) for count in counts)
        accepted = sum(count.get("num_accepted_draft_tokens", 0) for count in counts)
        return 1 + accepted / steps if steps else None

    def same_as(self, other: "Run") -> int:
        """How many prompts have the same tokens and text."""
        return sum(
            mine.token_ids == theirs.token_ids and mine.text == theirs.text and bool(mine.token_ids)
            for mine, theirs in zip(self.outcomes, other.outcomes, strict=True)
        )


def load_prompts(count: int) -> list[str]:
    """Return ``count`` prompts: the packaged held-out ones first, made-up ones after."""
    file = resources.files("dspark").joinpath("demo", "prompts.jsonl")
    packaged = []
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
        packaged = [str(json.loads(line)["prompt"]) for line in lines]
    random.Random(0).shuffle(packaged)  # the domains lie one after another in the file
    made_up = [
        " ".join(_WORDS[(i * 7 + j * (i + 3)) % len(_WORDS)] for j in range(3 + i % 40))
        for i in range(max(0, count - len(packaged)))
    ]
    return (packaged + made_up)[:count]


async def generate_all(
    url: str,
    model: str,
    prompts: Sequence[str],
    *,
    tokens: int,
    temperature: float,
    mode: str,
    concurrency: int,
) -> Run:
    """Generate every prompt, ``concurrency`` at a time."""
    gate = asyncio.Semaphore(concurrency)
    began_s = time.monotonic()

    async def one(index: int, prompt: str) -> Outcome:
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": temperature,
            "seed": 1000 + index,
            "ignore_eos": True,
            "speculation": MODES[mode],
        }
        outcome = Outcome()
        async with gate:
            async for chunk in stream(client, "/v1/completions", body):
                outcome.add(chunk)
        return outcome

    async with open_client(url) as client:
        outcomes = await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(prompts)))
    return Run(temperature, mode, concurrency, outcomes, time.monotonic() - began_s)


async def compare(
    url: str,
    model: str,
    prompts: Sequence[str],
    *,
    tokens: int,
    temperatures: Sequence[float],
    concurrencies: Sequence[int],
    console: Console | None = None,
) -> list[tuple[Run, int]]:
    """Run every combination; return each with the number of prompts equal to the reference."""
    results = []
    for temperature in temperatures:
        reference: Run | None = None
        for concurrency in concurrencies:
            for mode in MODES:
                run = await generate_all(
                    url, model, prompts, tokens=tokens, temperature=temperature, mode=mode,
                    concurrency=concurrency,
                )  # fmt: skip
                reference = reference or run
                results.append((run, run.same_as(reference)))
                if console is not None:
                    console.print(_line(*results[-1]))
    return results


def _line(run: Run, same: int) -> str:
    tau = run.accepted_length
    return (
        f"T={run.temperature:g} x{run.concurrency} drafting {run.mode}: {same}/{len(run.outcomes)} "
        f"identical, accepted length {'-' if tau is None else f'{tau:.3f}'}, "
        f"{run.num_tokens / run.seconds:.0f} tokens/s"
    )


def _table(results: Sequence[tuple[Run, int]]) -> Table:
    table = Table(
        "temperature", "concurrency", "drafting", "identical", "tokens", "accepted length",
        "tokens/s",
    )  # fmt: skip
    for run, same in results:
        tau = run.accepted_length
        table.add_row(
            f"{run.temperature:g}",
            str(run.concurrency),
            run.mode,
            f"{same}/{len(run.outcomes)}",
            str(run.num_tokens),
            "-" if tau is None else f"{tau:.3f}",
            f"{run.num_tokens / run.seconds:.1f}",
        )
    return table


def main() -> int:
    """Compare on the running stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--concurrency", default="1,8")
    parser.add_argument("--temperatures", default="0,0.9")
    parser.add_argument("--state-dir", type=Path, default=default_state_dir())
    given = parser.parse_args()
    record = require_running(given.state_dir)
    console = Console(highlight=False, width=110)
    results = asyncio.run(
        compare(
            record.gateway,
            record.model,
            load_prompts(given.prompts),
            tokens=given.tokens,
            temperatures=[float(value) for value in given.temperatures.split(",")],
            concurrencies=[int(value) for value in given.concurrency.split(",")],
            console=console,
        )
    )
    console.print(_table(results))
    different = sum(len(run.outcomes) - same for run, same in results)
    print(f"{different} of {sum(len(run.outcomes) for run, _ in results)} outputs differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
