"""``dspark up`` and ``dspark down``."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from dspark.cli.budget_view import policies_line
from dspark.cli.control_api import policies_of
from dspark.cli.options import Config, Port, Set, StateDir, load, state_folder
from dspark.cli.progress import show_progress
from dspark.cli.stack.record import StackRecord, read_record
from dspark.cli.stack.supervisor import Supervisor
from dspark.cli.stack.sweep import marked_processes, sweep

_POLL_S = 0.2
_DOWN_S = 180.0
"""A supervisor bounds its own stop; one that takes longer is stuck."""


def up(
    config: Config = None,
    port: Port = None,
    set_: Set = None,
    state_dir: StateDir = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when ready; `dspark down` stops it.")
    ] = False,
) -> None:
    """Start everything: controller, the three pools under Ray Serve, the HTTP API.

    Stays until Ctrl-C (or SIGTERM), restarts what dies, and leaves no process behind.
    """
    settings = load(config, set_, port)
    folder = state_folder(state_dir, settings)
    source = "defaults" if config is None else str(config)
    if detach:
        _start_detached(folder)
        return
    supervisor = Supervisor(settings, state_dir=folder, source=source)
    stop_on_signals(supervisor)
    with show_progress(settings.model.name) as show:
        supervisor.start(show)
    record = supervisor.record()
    say_where(record)
    say_policies(record)
    try:
        supervisor.watch()
        print("dspark: stopping", file=sys.stderr)
    finally:
        supervisor.stop()
    print("dspark: stopped", file=sys.stderr)


def down(state_dir: StateDir = None) -> None:
    """Stop the running stack: streams end, pools drain, no process stays."""
    folder = state_folder(state_dir)
    record = read_record(folder)
    supervisor = None if record is None else record.supervisor()
    if record is None or (supervisor is None and not marked_processes(record.mark)):
        print("dspark: nothing runs here")
        return
    if supervisor is not None:
        supervisor.terminate()
        try:
            supervisor.wait(_DOWN_S)
        except psutil.TimeoutExpired:
            supervisor.kill()
    left = sweep(record.mark, patience_s=5.0)
    print(f"dspark: stopped{f'; ended {left} leftover processes' if left else ''}")


def stop_on_signals(supervisor: Supervisor) -> None:
    """Let SIGINT, SIGTERM and a closed terminal ask for the stop.

    A second SIGINT forgoes the drains.
    """

    def ask(number: int, _frame: object) -> None:
        if supervisor.stop_asked.is_set() and number == signal.SIGINT:
            supervisor.hurry.set()
        supervisor.stop_asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)


def say_where(record: StackRecord) -> None:
    """Print where the server is and what to try."""
    console = Console(highlight=False)
    url, api, model = record.gateway, record.api, record.model
    curl = "curl"
    if record.tls is not None and record.certificates.get("gateway") == record.tls["certificate"]:
        curl += f" --cacert {record.tls['authority']}"
    console.print(f"[bold green]ready[/] at [bold]{url}/v1[/] (model {model})")
    console.print(
        f"  {api}/  the dashboard\n"
        "  dspark chat          talk to it\n"
        "  dspark status        pools, budgets, acceptance\n"
        f"  {curl} {url}/v1/completions -H 'content-type: application/json' \\\n"
        f'    -d \'{{"model": "{model}", "prompt": "def fibonacci(n):", "max_tokens": 64}}\'',
        soft_wrap=True,
    )


def say_policies(record: StackRecord) -> None:
    """Print which policies are in force: they outlive a stop where the store is a file."""
    states = policies_of(record.api, record.certificates.get("api"))
    if states is not None:
        Console(highlight=False).print(f"  {policies_line(states)}", soft_wrap=True, markup=False)


def _start_detached(folder: Path) -> None:
    """Run the same command without --detach in a session of its own, and wait for its word."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "up.log"
    words = [word for word in sys.argv[1:] if word != "--detach"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "dspark.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record: StackRecord | None = None
    try:
        while child.poll() is None:
            record = read_record(folder)
            mine = record is not None and record.supervisor_pid == child.pid
            if record is not None and mine and record.phase == "ready":
                say_where(record)
                say_policies(record)
                return
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        child.terminate()
        child.wait(_DOWN_S)
        raise
    lines = [line for line in log.read_text().splitlines() if line.startswith("dspark: ")]
    why = lines[-1].removeprefix("dspark: ") if lines else f"ended with {child.returncode}"
    raise ValueError(f"{why} (log: {log})" if not lines else why)
