"""``dspark chat``: a conversation in the terminal."""

import asyncio
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from dspark.cli.client import Outcome, open_client, stream
from dspark.cli.options import StateDir, state_folder
from dspark.cli.stack.record import require_running


def chat(
    message: Annotated[str | None, typer.Argument(help="One message; absent: converse.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal answers.")] = None,
    speculation: Annotated[
        bool, typer.Option("--speculation/--no-speculation", help="Never changes the answer.")
    ] = True,
    url: Annotated[str | None, typer.Option(help="Server; absent: the running stack.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name; absent: the stack's.")] = None,
    state_dir: StateDir = None,
) -> None:
    """Talk to the served model; /bye or Ctrl-D ends, /new forgets the conversation."""
    certificate: str | None = None
    if url is None or model is None:
        record = require_running(state_folder(state_dir))
        certificate = record.certificates.get("gateway") if url is None else None
        url, model = url or record.gateway, model or record.model
    settings = {
        "model": model,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "speculation": {"enabled": speculation},
        **({} if seed is None else {"seed": seed}),
    }
    console = Console(highlight=False)
    if message is not None:
        asyncio.run(
            _answer(url, certificate, settings, [{"role": "user", "content": message}], console)
        )
        return
    _converse(url, certificate, settings, console)


def _converse(
    url: str, certificate: str | None, settings: dict[str, Any], console: Console
) -> None:
    turns: list[dict[str, str]] = []
    while True:
        try:
            line = console.input("[bold]you>[/] ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        if line.strip() == "/bye":
            return
        if line.strip() == "/new":
            turns = []
        elif line.strip():
            turns.append({"role": "user", "content": line})
            answer = asyncio.run(_answer(url, certificate, settings, turns, console))
            turns.append({"role": "assistant", "content": answer})


async def _answer(
    url: str,
    certificate: str | None,
    settings: dict[str, Any],
    turns: list[dict[str, str]],
    console: Console,
) -> str:
    outcome = Outcome()
    async with open_client(url, certificate) as client:
        body = {**settings, "messages": turns}
        async for chunk in stream(client, "/v1/chat/completions", body):
            outcome.add(chunk)
            console.print(chunk.text, end="", markup=False, soft_wrap=True)
    accepted = outcome.accepted_length
    tau = "" if accepted is None else f", accepted length {accepted:.2f}"
    console.print(
        f"\n[dim]{len(outcome.token_ids)} tokens, {outcome.tokens_per_s:.0f} tokens/s{tau}[/]"
    )
    return outcome.text
