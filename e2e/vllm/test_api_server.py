"""``vllm serve`` with two more lines, and a drafter: what the manual promises."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import vllm

from e2e.vllm.drafters import ROOT, DrafterProcess, free_port, own_environment
from e2e.vllm.http import Api, metric
from e2e.vllm.prompts import TARGET, prompts

NUM_PROMPTS = 24
_START_S = 300.0


@pytest.fixture(scope="module")
def server(
    plain: object, drafter: DrafterProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    port = free_port()
    ours = {"drafter": "builtin:demo/drafter", "drafters": [f"127.0.0.1:{drafter.port}"]}
    proposer = {
        "method": "custom_class",
        "model": "dspark.engines.vllm.DSparkProposer",
        "num_speculative_tokens": 7,
    }
    command = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(TARGET),
        "--served-model-name", "dspark-demo", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "512",
        "--block-size", "32", "--kv-cache-memory-bytes", str(1 << 27), "--no-async-scheduling",
        "--speculative-config", json.dumps(proposer),
        "--additional-config", json.dumps({"dspark": ours}),
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("serve")
    log = folder / "log"
    ours_first = own_environment()
    environment = ours_first | {
        "PYTHONPATH": os.pathsep.join([ours_first["PYTHONPATH"], str(_named(folder))]),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    api = Api(f"http://127.0.0.1:{port}")
    try:
        deadline_s = time.monotonic() + _START_S
        while not _answers(api):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline_s, log.read_text()[-4000:]
            time.sleep(0.5)
        yield api
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _named(folder: Path) -> Path:
    """What ``vllm`` asks for at its start, where the build is installed under another name."""
    metadata = folder / f"vllm-{vllm.__version__}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    version = vllm.__version__.split("+")[0]
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    return folder


def _answers(api: Api) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{api.url}/health", timeout=5.0, trust_env=False).status_code == 200
    return False


def test_the_server_says_what_plain_vllm_says_and_takes_drafts(
    server: Api, plain: dict[str, list[tuple[int, ...]]]
) -> None:
    given = prompts(NUM_PROMPTS)
    stable = [i for i in range(NUM_PROMPTS) if plain["1"][i] == plain["8"][i]]
    assert len(stable) > NUM_PROMPTS / 2
    alone, together = server.tokens(given, at_once=1), server.tokens(given, at_once=8)
    assert [alone[i] for i in stable] == [plain["1"][i] for i in stable]
    assert [together[i] for i in stable] == [plain["1"][i] for i in stable]
    address = server.url.removeprefix("http://")
    accepted = metric(address, "vllm:spec_decode_num_accepted_tokens_total")
    rounds = metric(address, "vllm:spec_decode_num_drafts_total")
    print(f"\nvllm serve: accepted length {1 + accepted / rounds:.2f} over {rounds:.0f} rounds")
    assert accepted > rounds  # on average more than one draft a round
