"""Fixtures: which pair is served, and a stack that a module's tests share."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lossless.conftest import table as table  # a fixture of these tests, too

from e2e.stack import ROOT, Stack, running_stack
from e2e.tiny_pair import make_tiny_pair

_DEMO = ROOT / "services" / "dspark" / "demo"


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a pair be named."""
    parser.addoption("--pair", type=Path, help="folder with target/ and drafter/ to serve")


@pytest.fixture(scope="session")
def model_words(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Options that name the pair: the given one, the demo's own, or a tiny random one."""
    given: Path | None = request.config.getoption("--pair")
    if given is not None:
        target, drafter = given / "target", given / "drafter"
    elif (_DEMO / "target" / "config.json").exists():
        return []
    else:
        target, drafter = make_tiny_pair(tmp_path_factory.mktemp("pair"))
    settings = (
        f"model.target={target}",
        f"model.drafter={drafter}",
        "model.min_accepted_length=1.0",
    )
    return [word for setting in settings for word in ("--set", setting)]


def stack_words(model_words: list[str], state_dir: Path) -> list[str]:
    """Options of ``dspark up`` and ``dspark demo``: demo configuration, free ports, own state."""
    return [
        "--config", str(ROOT / "configs" / "demo.yaml"),
        "--state-dir", str(state_dir),
        "--port", str(free_port()),
        "--set", f"controller.port={free_port()}",
        "--set", "start_timeout_s=540",
        # A quick profile: these tests are about correctness, not about budgets.
        "--set", "pools.verifier.settings.profile_repeats=1",
        # Draft also where it does not pay: a random drafter would soon be switched off.
        "--set", "controller.off_gain=1000",
        *model_words,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def stack(model_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack; stopped, and checked for leftovers, at the end of the module."""
    state_dir = tmp_path_factory.mktemp("state")
    with running_stack(state_dir, stack_words(model_words, state_dir)) as running:
        yield running
