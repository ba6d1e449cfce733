import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dspark.controller.__main__ import main
from dspark.rpc.channel import open_channel


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(config: str) -> "Popen[str]":
    command = [sys.executable, "-m", "dspark.controller", "--config-json", config]
    return Popen(command, stderr=PIPE, text=True)


def lines_until(process: "Popen[str]", text: str) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if text in line:
            return
    raise AssertionError(f"ended without saying {text!r}")


async def health_of(port: int) -> int:
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="dspark.wire.v1.ControlService")
        answer = await stub.Check(request, timeout=2.0)
        return int(answer.status)


def test_it_serves_until_a_signal_and_stops_cleanly_within_three_seconds(
    port: int, tmp_path: Path
) -> None:
    file = tmp_path / "controller.json"
    file.write_text(f'{{"port": {port}, "store": "{tmp_path / "c.sqlite"}"}}')
    with start(str(file)) as process:
        list(lines_until(process, f"controller at 127.0.0.1:{port}"))
        assert asyncio.run(health_of(port)) == health_pb2.HealthCheckResponse.SERVING
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - began_s < 3.0


def api_url(said: list[str]) -> str:
    (line,) = [line for line in said if "control API at" in line]
    return line.split("control API at ")[1].strip()


def test_policies_survive_a_kill_and_listeners_end_with_the_process(tmp_path: Path) -> None:
    config = json.dumps(
        {"port": 0, "store": str(tmp_path / "c.sqlite"), "initial_replicas": {"verifier": 1}}
    )
    body = {"policy": {"cap": 7}, "reason": "a test"}
    with start(config) as first:
        url = api_url(list(lines_until(first, "controller at")))
        answer = httpx.put(f"{url}/v1/pools/verifier/policy", json=body, trust_env=False)
        assert answer.status_code == 200, answer.text
        first.kill()
    with start(config) as second:
        url = api_url(list(lines_until(second, "controller at")))
        state = httpx.get(f"{url}/v1/pools/verifier/policy", trust_env=False).json()
        assert (state["policy"]["cap"], state["version"]) == (7, 1)
        with httpx.stream("GET", f"{url}/v1/events", trust_env=False, timeout=10.0) as events:
            lines = events.iter_lines()
            assert next(lines) == ": listening"
            second.send_signal(signal.SIGTERM)
            list(lines)  # ends
        assert second.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"prot": 1}', "prot"),
        ("/nowhere/controller.json", "No such file"),
        ('{"port": 0, "store": "/nowhere/c.sqlite"}', "store /nowhere/c.sqlite"),
        ('{"lease_s": 0.1}', "at least twice report_interval_s"),
        ('{"api_host": "0.0.0.0"}', "set api_tokens"),
        (
            '{"tls": {"certificate": "/nowhere/c.pem", "key": "/k.pem", "authority": "/a.pem"}}',
            "/nowhere/c.pem: no such file",
        ),
        ('{"https": {"certificate": "/nowhere/c.pem", "key": "/k.pem"}}', "no such file"),
    ],
)
def test_a_mistake_is_one_clear_line_and_status_2(
    config: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config-json", config]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert len(text.splitlines()) == 1


def test_a_port_in_use_is_named(port: int) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with start(f'{{"port": {port}}}') as process:
            _, text = process.communicate(timeout=20)
    assert process.returncode == 2
    assert f"port {port} is in use" in text
