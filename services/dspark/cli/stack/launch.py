"""Commands, settings files and environment of the three supervised processes."""

import os
import secrets
import sys
import tempfile
from pathlib import Path

from dspark.cli.stack.child import Child
from dspark.cli.stack.sweep import MARK, scratch_name
from dspark.config.gateway import GatewayProcess
from dspark.config.system import SystemSettings

CHILDREN = ("controller", "pools", "gateway")
"""In the order of their start; they are stopped in the reverse order."""

_NICENESS = "RAY_worker_niceness"
_SERVE_LOOP = "RAY_SERVE_CONTROL_LOOP_INTERVAL_S"


def make_children(
    settings: SystemSettings, *, state_dir: Path, scratch: Path, status_file: Path, mark: str
) -> dict[str, Child]:
    """Write every process's settings to a file and return the processes, not yet started."""
    logs = state_dir / "logs"
    logs.mkdir(exist_ok=True)
    process = GatewayProcess(gateway=settings.gateway, model=settings.model)
    files = {
        "controller": (state_dir / "controller.json", settings.controller.model_dump_json()),
        "pools": (state_dir / "system.json", settings.model_dump_json()),
        "gateway": (state_dir / "gateway.json", process.model_dump_json()),
    }
    modules = {
        "controller": ["dspark.controller"],
        "pools": ["dspark.app", "--scratch", str(scratch), "--status", str(status_file)],
        "gateway": ["dspark.gateway"],
    }
    env = {MARK: mark, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    for name, value in settings.telemetry.environment().items():
        env[name] = os.environ.get(name) or value
    if settings.ray.address is None:
        # Our own cluster: a token that only its processes know, and no file of it anywhere.
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        # Ray runs replicas at nice 15, behind everything else on the machine: the gateway and
        # its client would slow the pools down that they wait for.
        if _NICENESS not in os.environ:
            env[_NICENESS] = "0"
        # Ray Serve looks after its few replicas ten times a second, for 5 % of a core.
        if _SERVE_LOOP not in os.environ:
            env[_SERVE_LOOP] = "0.5"
    children = {}
    for name in CHILDREN:
        file, text = files[name]
        file.write_text(text)
        log = logs / f"{name}.log"
        log.write_bytes(b"")
        command = [sys.executable, "-m", *modules[name], "--config-json", str(file)]
        children[name] = Child(name, command, log=log, env=env)
    return children


def make_scratch(mark: str) -> Path:
    """Return a fresh folder with a short path: Ray puts sockets below it.

    A socket's path holds 107 bytes, of which Ray needs some 70.
    """
    usual = tempfile.gettempdir()
    folder = Path(usual if len(usual) <= 20 else "/tmp") / scratch_name(mark)
    folder.mkdir(mode=0o700)
    return folder
