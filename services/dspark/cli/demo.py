"""``dspark demo``: the stack, one prompt of each domain at once, with and without drafting."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Any

import typer
from rich.console import Console

from dspark.cli.client import Outcome, open_client, stream
from dspark.cli.demo_view import draw_streams, print_summary
from dspark.cli.options import Config, Port, Set, StateDir, load, state_folder
from dspark.cli.progress import show_progress
from dspark.cli.stack.supervisor import Supervisor
from dspark.cli.stack_commands import say_where, stop_on_signals

_FALLBACK = {
    "code": "def fibonacci(n):\n",
    "prose": "The sequence types are",
    "arithmetic": "Question: Anna has 12 apples and buys 7 more. How many apples has she?\nAnswer:",
}
_WARM_UP_TOKENS = 16


@dataclass(slots=True)
class Lane:
    """One domain: its prompt and both runs."""

    domain: str
    prompt: str
    drafted: Outcome = field(default_factory=Outcome)
    plain: Outcome = field(default_factory=Outcome)

    @property
    def identical(self) -> bool:
        """Whether drafting changed nothing."""
        return self.drafted.token_ids == self.plain.token_ids and bool(self.plain.token_ids)


def demo(
    config: Config = None,
    port: Port = None,
    set_: Set = None,
    state_dir: StateDir = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens for each prompt.")] = 160,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    once: Annotated[bool, typer.Option("--once", help="End after the summary.")] = False,
) -> None:
    """Start the stack, stream one prompt of each domain, compare with drafting switched off.

    Serves until Ctrl-C afterwards.  Exit code 1 when the two texts differ.
    """
    settings = load(config, set_, port)
    supervisor = Supervisor(
        settings, state_dir=state_folder(state_dir, settings), source=str(config or "defaults")
    )
    stop_on_signals(supervisor)
    console = Console(highlight=False)
    with show_progress(settings.model.name) as show:
        supervisor.start(show)
    keeper = threading.Thread(target=supervisor.watch, name="keeper")
    keeper.start()
    try:
        request = {"model": settings.model.name, "max_tokens": max_tokens, "seed": 7}
        request |= {"temperature": temperature, "ignore_eos": True}
        lanes = [Lane(domain, prompt) for domain, prompt in demo_prompts().items()]
        asyncio.run(_compare(supervisor, request, lanes, console))
        same = all(lane.identical for lane in lanes)
        if not supervisor.stop_asked.is_set():
            print_summary(console, lanes)
            say_where(supervisor.record())
            if not once:
                console.print("serving until Ctrl-C")
                supervisor.stop_asked.wait()
    finally:
        supervisor.stop_asked.set()
        keeper.join()
        print("dspark: stopping", file=sys.stderr)
        supervisor.stop()
        print("dspark: stopped, no process left", file=sys.stderr)
    if not same:
        raise typer.Exit(1)


def demo_prompts() -> dict[str, str]:
    """Return one short prompt of each domain: the packaged ones, or built-in ones."""
    file = resources.files("dspark").joinpath("demo", "prompts.jsonl")
    if not file.is_file():
        return dict(_FALLBACK)
    chosen: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        chosen.setdefault(str(entry["domain"]), str(entry["prompt"]))
    return chosen


async def _compare(
    supervisor: Supervisor, request: dict[str, Any], lanes: Sequence[Lane], console: Console
) -> None:
    async with open_client(
        supervisor.gateway_url, supervisor.certificates.get("gateway")
    ) as client:

        async def run(lane: Lane, outcome: Outcome, *, enabled: bool, tokens: int) -> None:
            body = {
                **request,
                "prompt": lane.prompt,
                "max_tokens": tokens,
                "speculation": {"enabled": enabled},
            }
            async for chunk in stream(client, "/v1/completions", body):
                outcome.add(chunk)

        async def together(*, enabled: bool, tokens: int, show: bool) -> None:
            outcomes = [
                (lane.drafted if enabled else lane.plain) if show else Outcome() for lane in lanes
            ]
            began_s = time.monotonic()
            runs = asyncio.gather(
                *(
                    run(lane, outcome, enabled=enabled, tokens=tokens)
                    for lane, outcome in zip(lanes, outcomes, strict=True)
                )
            )
            if not show:
                await runs
                return
            title = "drafting on" if enabled else "drafting off"
            pairs = [(lane.domain, out) for lane, out in zip(lanes, outcomes, strict=True)]
            await draw_streams(console, title, pairs, runs, supervisor.stop_asked)
            console.print(f"[dim]{title}: {time.monotonic() - began_s:.1f} s[/]")

        tokens = request["max_tokens"]
        for enabled in (True, False):
            # The first steps of a process are slower: not part of the comparison.
            await together(enabled=enabled, tokens=_WARM_UP_TOKENS, show=False)
        for enabled in (True, False):
            if not supervisor.stop_asked.is_set():
                await together(enabled=enabled, tokens=tokens, show=True)
