import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from dspark.gateway.__main__ import main, read_config
from dspark.gateway.fleet import write_fleet
from dspark.rpc.http import bind
from tests.gateway.fakes import FakeVerifier, fleet_of, serving
from tests.gateway.toy_model import write_toy_model


def config(folder: Path, **gateway: object) -> str:
    settings = {"controller": "127.0.0.1:1", "port": 0} | gateway
    return json.dumps({"gateway": settings, "model": {"name": "toy", "target": str(folder)}})


@asynccontextmanager
async def process(text: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The gateway as a process, and its URL as it logs it."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dspark.gateway", "--config-json", text,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stderr is not None
    try:
        async with asyncio.timeout(15):
            line = b""
            while b"http://" not in line:
                line = await child.stderr.readline()
                assert line, "the gateway ended"
        yield child, line.decode().split(" at ")[1].strip()
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_a_stopped_gateway_finishes_its_streams_and_exits_with_zero(tmp_path: Path) -> None:
    write_toy_model(tmp_path)
    write = FakeVerifier(lambda choice: list(range(65, 75)), chunk_tokens=1, pause_s=0.05)
    async with serving(write) as members:
        write_fleet(tmp_path / "fleet.json", fleet_of(*members))
        text = config(
            tmp_path, fleet_file=str(tmp_path / "fleet.json"), drain_s=5, stop_grace_s=0.8
        )
        async with process(text) as (child, url), httpx.AsyncClient(base_url=url) as http:
            body = {"model": "toy", "prompt": "x", "stream": True}
            async with http.stream("POST", "/v1/completions", json=body) as got:
                lines = got.aiter_lines()
                await anext(lines)
                child.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                assert (await http.get("/ready")).status_code == 503
                assert [line async for line in lines if line][-1] == "data: [DONE]"
            assert await asyncio.wait_for(child.wait(), 5) == 0


async def test_a_stream_longer_than_the_drain_is_told_and_cancelled(tmp_path: Path) -> None:
    write_toy_model(tmp_path)
    write = FakeVerifier(lambda choice: [65] * 100, chunk_tokens=1, pause_s=0.05)
    async with serving(write) as members:
        write_fleet(tmp_path / "fleet.json", fleet_of(*members))
        text = config(tmp_path, fleet_file=str(tmp_path / "fleet.json"), drain_s=0.1)
        async with process(text) as (child, url), httpx.AsyncClient(base_url=url) as http:
            body = {"model": "toy", "prompt": "x", "stream": True, "max_tokens": 100}
            async with http.stream("POST", "/v1/completions", json=body) as got:
                lines = got.aiter_lines()
                await anext(lines)
                child.send_signal(signal.SIGINT)
                said = [line async for line in lines if line]
            assert "The server is stopping" in said[-2]
            assert said[-1] == "data: [DONE]"
            assert await asyncio.wait_for(child.wait(), 5) == 0
            await asyncio.wait_for(write.cancelled.wait(), 2)


def test_a_port_in_use_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bind("127.0.0.1", 0, what="a test") as taken:
        port = taken.getsockname()[1]
        assert main(["--config-json", config(write_toy_model(tmp_path), port=port)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"port {port} is in use on 127.0.0.1" in said


def test_a_missing_model_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config-json", config(tmp_path / "nowhere")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "nowhere does not exist" in said


def test_a_missing_certificate_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = {"certificate": "/nowhere/c.pem", "key": "/k.pem", "authority": "/a.pem"}
    assert main(["--config-json", config(write_toy_model(tmp_path), tls=tls)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "/nowhere/c.pem: no such file" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"gateway": {"prot": 1}}', "gateway.prot"),
        ('{"gateway": {"port": "x"}}', "gateway.port"),
        ("{", "not JSON"),
        ("/nowhere/x.json", "cannot read /nowhere/x.json"),
    ],
)
def test_a_bad_configuration_names_the_field(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(text)


def test_a_configuration_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    file.write_text(config(tmp_path, port=1234))
    assert read_config(str(file)).gateway.port == 1234


def test_bound_sockets_listen_at_once() -> None:
    with (
        bind("127.0.0.1", 0, what="a test") as sock,
        socket.create_connection(sock.getsockname(), timeout=1),
    ):
        pass
