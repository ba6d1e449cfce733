"""How the demo looks: streams side by side while they run, then one table."""

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Protocol

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dspark.cli.client import Outcome

_FRAME_S = 0.1
_SIDE_BY_SIDE_COLUMNS = 100
_PANEL_LINES = 18


class Compared(Protocol):
    """One domain's two runs."""

    domain: str
    drafted: Outcome
    plain: Outcome

    @property
    def identical(self) -> bool:
        """Whether drafting changed nothing."""


async def draw_streams(
    console: Console,
    title: str,
    pairs: Sequence[tuple[str, Outcome]],
    runs: "asyncio.Future[list[None]]",
    stop: threading.Event,
) -> None:
    """Show the streams until ``runs`` is done; a stop ends them early."""
    if not console.is_terminal:
        await _until(runs, stop, lambda: None)
        for domain, outcome in pairs:
            console.print(f"--- {domain}, {title}: {_figures(outcome)}")
            console.print(outcome.text, markup=False, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:

        def frame() -> None:
            live.update(_panels(console, title, pairs), refresh=True)

        await _until(runs, stop, frame)
        frame()


async def _until(runs: "asyncio.Future[list[None]]", stop: threading.Event, frame: "Frame") -> None:
    while not runs.done():
        frame()
        await asyncio.wait([runs], timeout=_FRAME_S)
        if stop.is_set():
            runs.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await runs
            return
    await runs


class Frame(Protocol):
    """Draws once."""

    def __call__(self) -> None:
        """Draw."""


def _panels(console: Console, title: str, pairs: Sequence[tuple[str, Outcome]]) -> RenderableType:
    side_by_side = console.width >= _SIDE_BY_SIDE_COLUMNS
    width = console.width // len(pairs) - 1 if side_by_side else console.width
    height = _PANEL_LINES if side_by_side else max(5, (console.height - 2) // len(pairs))
    panels = []
    for domain, outcome in pairs:
        lines = Text(outcome.text).wrap(console, width - 4)
        tail = Text("\n").join(list(lines)[-(height - 2) :])
        panels.append(
            Panel(
                tail,
                title=f"{domain}, {title}",
                subtitle=_figures(outcome),
                width=width,
                height=height,
            )
        )
    return Columns(panels, padding=0)


def _figures(outcome: Outcome) -> str:
    accepted = outcome.accepted_length
    per_step = outcome.tokens_per_event if accepted is None else accepted
    return (
        f"{len(outcome.token_ids)} tokens, {outcome.tokens_per_s:.0f} tokens/s, "
        f"{per_step:.2f} a step"
    )


def print_summary(console: Console, lanes: Sequence[Compared]) -> None:
    """Print tokens/s and accepted length of both runs, and whether the text was the same."""
    table = Table(title="drafting on against off", title_justify="left")
    table.add_column("domain")
    for column in ("accepted length", "tokens/s on", "tokens/s off", "speed-up", "tokens"):
        table.add_column(column, justify="right")
    table.add_column("text")
    for lane in lanes:
        on, off = lane.drafted, lane.plain
        accepted = on.accepted_length
        table.add_row(
            lane.domain,
            "-" if accepted is None else f"{accepted:.2f}",
            f"{on.tokens_per_s:.1f}",
            f"{off.tokens_per_s:.1f}",
            f"{on.tokens_per_s / off.tokens_per_s:.2f}x" if off.tokens_per_s else "-",
            str(len(on.token_ids)),
            "identical" if lane.identical else "[red]different[/]",
        )
    console.print(table)
    total = sum(len(lane.drafted.token_ids) for lane in lanes)
    different = [lane.domain for lane in lanes if not lane.identical]
    if different:
        console.print(f"[red]The text is NOT identical: {', '.join(different)}.[/]")
    else:
        console.print(
            f"The text is identical with drafting on and off, in all {len(lanes)} domains and all "
            f"{total} tokens."
        )
