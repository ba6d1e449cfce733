"""Drafter processes, and a proxy in front of them that can slow, cut and redirect the line."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("DSPARK_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
"""Interpreter of this repository's environment."""

_START_S = 120.0
_CHUNK_BYTES = 1 << 16


def own_environment() -> dict[str, str]:
    """What our own processes are started with."""
    parts = [str(ROOT / name) for name in ("services", "kernels", "operators", ".")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(parts), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class DrafterProcess:
    """``python -m dspark.drafter`` on a port of its own, from start to end."""

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.port = free_port()
        config = {
            "model": dict(model or {}),
            "endpoint": {"port_min": self.port, "port_max": self.port, "metrics": False},
            "drafter": {"profile_at_start": False, "drain_s": 0.2, **settings},
        }
        self._command = [PYTHON, "-m", "dspark.drafter", "--config-json", json.dumps(config)]
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(self._command, env=own_environment(), cwd=ROOT)
        deadline_s = time.monotonic() + _START_S
        while time.monotonic() < deadline_s and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return process
            time.sleep(0.1)
        process.kill()
        raise RuntimeError(f"the drafter did not start: {' '.join(self._command)}")

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self._process = self._start()

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10.0)
        self._process.kill()
        self._process.wait()


class Line:
    """A TCP proxy: one address for the engine, whatever stands behind it."""

    def __init__(self, port: int) -> None:
        self.target_port = port
        self.delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(10.0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def redirect(self, port: int) -> None:
        """Let the line end somewhere else from now on."""
        self.target_port = port

        def cut() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    def close(self) -> None:
        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, onward[1]), self._pump(onward[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()
