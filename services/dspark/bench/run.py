"""A run: the whole plan against one server, with a progress bar and the replicas' reports."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dspark.bench.arms import Arm
from dspark.bench.forecast import Sample, read_samples
from dspark.bench.load import Server, run_all
from dspark.bench.record import CellRecord
from dspark.bench.schedule import Cell, Plan, make_schedule, make_warm_up
from dspark.core.fleet import Fleet

_WARM_UP_TOKENS = 24
_WATCH_S = 1.0
_SETTLED_S = 2.0
"""Reports tell of the half second before them, and travel: so old is a cell that they tell of."""


Watch = Callable[[Arm], Fleet]
"""What the replicas that serve an arm report; ConnectionError where nobody answers."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What a run has brought so far; it outlives an interruption."""

    records: list[CellRecord] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


async def run_plan(
    plan: Plan,
    server: Server,
    timeout_s: float,
    notes: Notes,
    watch: Watch | None,
    prepare: Callable[[Arm], None] | None = None,
) -> None:
    """Warm up, then run the whole plan, with a progress bar on standard error.

    Args:
        plan: What to ask.
        server: Whom to ask.
        timeout_s: Deadline of each request.
        notes: Filled as cells end.
        watch: Reads the fleet that serves an arm; None: no reports.
        prepare: Told, in a thread, which arm is next; see FixedPolicy.prepare.

    Raises:
        TimeoutError: A request took longer.
        ValueError: The server refused one.
        ConnectionError: It is gone.
    """
    warm_up, cells = make_warm_up(plan, tokens=_WARM_UP_TOKENS), make_schedule(plan)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    running: list[tuple[Cell, float]] = []
    fresh: list[tuple[float, Sample]] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = sum(len(cell.requests) for cell in (*warm_up, *cells))
        task = progress.add_task("starting", total=total)

        async def starting(cell: Cell) -> None:
            if prepare is not None:
                await asyncio.to_thread(prepare, cell.arm)
            running[:] = [(cell, time.perf_counter())]
            fresh.clear()
            turn = "warm-up" if cell.repeat < 0 else f"repeat {cell.repeat + 1}/{plan.repeats}"
            description = f"{turn}, load {cell.load.label}, {cell.arm.name}"
            progress.update(task, description=f"{description:<40}")

        def finished(record: CellRecord) -> None:
            if record.cell.repeat >= 0:
                notes.records.append(record)
                # A report of a load that was ebbing away says nothing of the load.
                notes.samples.extend(
                    sample for at_s, sample in fresh if at_s <= record.whole_until_s
                )

        watcher = asyncio.create_task(_watch(watch, running, fresh))
        try:
            await run_all(
                (*warm_up, *cells),
                server,
                clock=time.perf_counter,
                timeout_s=timeout_s,
                starting=starting,
                answered=lambda: progress.advance(task),
                finished=finished,
            )
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _watch(
    watch: Watch | None,
    running: Sequence[tuple[Cell, float]],
    fresh: list[tuple[float, Sample]],
) -> None:
    """Read the replicas' reports of the running cell now and then, with the time of each."""
    while watch is not None:
        await asyncio.sleep(_WATCH_S)
        if not running:
            continue
        cell, began_s = running[0]
        with suppress(ConnectionError):
            fleet = await asyncio.to_thread(watch, cell.arm)
            now_s = time.perf_counter()
            if cell.repeat < 0 or now_s - began_s < _SETTLED_S or running[0][0] is not cell:
                continue
            # The same report may be read twice.
            known = {sample for _, sample in fresh}
            found = read_samples(fleet, arm=cell.arm.name, load=cell.load.label)
            fresh += [(now_s, sample) for sample in found if sample not in known]
