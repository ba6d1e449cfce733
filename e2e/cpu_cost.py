"""CPU milliseconds that a committed token costs, by process, of a running stack.

    dspark up --detach
    python -m e2e.cpu_cost --concurrency 1,8,32 --repeats 3
    dspark down

Wall times of a shared machine say little; what each process was charged for says what a change
saved.  Arms run interleaved; of the repeats the one that cost least is shown, because what else
runs on the machine only ever adds.  ``ray`` is everything that runs because pools are placed by
Ray; ``at rest`` is what a second without requests costs.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from dspark.cli.stack.record import StackRecord, default_state_dir, require_running
from dspark.cli.stack.sweep import marked_processes
from e2e.equality import generate_all, load_prompts

ARMS = {"off": "off", "adaptive": "on"}
"""Names as ``dspark bench`` has them, and as ``e2e.equality`` has them."""

POOLS = ("verifier", "drafter", "prefill")
PARTS = (*POOLS, "gateway", "controller", "ray", "client")
ENGINE = "verifier, its busiest thread"
"""A part of ``verifier``: the engine's thread."""


@dataclass(frozen=True)
class Meter:
    """The processes of a stack, by part.

    Args:
        processes: Each with its part.
    """

    processes: Sequence[tuple[str, psutil.Process]]

    @classmethod
    def of(cls, record: StackRecord) -> "Meter":
        """Find them: all but the supervisor, which is no part of serving, and this client."""
        children = {child.pid: name for name, child in record.children.items()}
        found = [("client", psutil.Process())]
        for process in marked_processes(record.mark):
            if process.pid != record.supervisor_pid:
                found.append((_part(process, children), process))
        missing = set(POOLS) - {part for part, _ in found}
        if missing:
            raise ValueError(f"no process of {', '.join(sorted(missing))} runs: is the stack up?")
        return cls(found)

    def read(self) -> dict[str, float]:
        """CPU seconds of each part since its start."""
        spent: dict[str, float] = defaultdict(float)
        for part, process in self.processes:
            times = process.cpu_times()
            spent[part] += times.user + times.system
            if part == "verifier":
                for thread in process.threads():
                    spent[f"{part}/{thread.id}"] += thread.user_time + thread.system_time
        return spent


def _part(process: psutil.Process, children: Mapping[int, str]) -> str:
    child = children.get(process.pid, "")
    if child in ("gateway", "controller"):
        return child
    title = " ".join(process.cmdline())
    return next((pool for pool in POOLS if f":dspark-{pool}:" in title), "ray")


def _spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds by part, the busiest of the verifier's threads beside them."""
    moved = {part: seconds - before.get(part, 0.0) for part, seconds in after.items()}
    threads = [seconds for part, seconds in moved.items() if "/" in part]
    return {part: moved.get(part, 0.0) for part in PARTS} | {ENGINE: max(threads, default=0.0)}


def measure(
    record: StackRecord,
    *,
    arms: Sequence[str],
    concurrencies: Sequence[int],
    requests: int,
    tokens: int,
    temperature: float,
    repeats: int,
) -> dict[tuple[int, str], dict[str, float]]:
    """CPU milliseconds a token by (sessions, arm) and part; ``all`` but the client, too."""
    meter = Meter.of(record)
    samples: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    for repeat in range(repeats + 1):
        for concurrency in concurrencies:
            for arm in arms if repeat % 2 else reversed(arms):
                prompts = load_prompts(max(requests, 2 * concurrency))
                before = meter.read()
                run = asyncio.run(
                    generate_all(
                        record.gateway, record.model, prompts, tokens=tokens,
                        temperature=temperature, mode=ARMS[arm], concurrency=concurrency,
                    )
                )  # fmt: skip
                spent = _spent(before, meter.read())
                if not repeat:
                    continue  # the first round warms caches and budgets up
                row = {part: 1e3 * seconds / run.num_tokens for part, seconds in spent.items()}
                row["all"] = sum(row[part] for part in PARTS if part != "client")
                row["wall"] = 1e3 * run.seconds / run.num_tokens
                samples[concurrency, arm].append(row)
    return {key: min(rows, key=lambda row: row["all"]) for key, rows in samples.items()}


def at_rest(record: StackRecord, seconds: float) -> dict[str, float]:
    """CPU milliseconds a second by part without any request."""
    meter = Meter.of(record)
    before, began_s = meter.read(), time.monotonic()
    time.sleep(seconds)
    spent = _spent(before, meter.read())
    return {part: 1e3 * each / (time.monotonic() - began_s) for part, each in spent.items()}


def main() -> int:
    """Measure the running stack and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arms", default="off,adaptive")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--requests", type=int, default=12, help="a cell; 2 a session at least")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rest-s", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--state-dir", type=Path, default=default_state_dir())
    given = parser.parse_args()
    arms = given.arms.split(",")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"unknown arms {', '.join(sorted(unknown))}: choose of {', '.join(ARMS)}")
    record = require_running(given.state_dir)
    rest = at_rest(record, given.rest_s)
    cells = measure(
        record,
        arms=arms,
        concurrencies=[int(word) for word in given.concurrency.split(",")],
        requests=given.requests,
        tokens=given.tokens,
        temperature=given.temperature,
        repeats=given.repeats,
    )
    table = Table("CPU ms a token", *(f"{arm} x{count}" for count, arm in cells), "at rest, ms/s")
    for part in (*PARTS[:1], ENGINE, *PARTS[1:], "all", "wall"):
        figures = [f"{cell[part]:.2f}" for cell in cells.values()]
        table.add_row(part, *figures, f"{rest[part]:.1f}" if part in rest else "")
    Console(highlight=False, width=120).print(table)
    if given.json is not None:
        named = {f"{arm} x{count}": cell for (count, arm), cell in cells.items()}
        given.json.write_text(json.dumps({"at_rest": rest, "cells": named}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
