"""Images: pinned, not root, and with everything installed that their processes import."""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.operator.cases import ROOT

DOCKER = ROOT / "deploy/docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"), key=str)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_image_is_pinned_and_not_root(file: object) -> None:
    text = (DOCKER / str(file)).read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-[\w-]+$", text, re.M)
    assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"${PYTHON_IMAGE}"}
    last = text.rindex("FROM ")
    assert re.search(r"^USER 10001:10001$", text[last:], re.M)
    assert "pip install" not in text[last:], "build tools stay in the build stage"
    for install in re.findall(r"pip install .*", text.replace("\\\n", " ")):
        assert "constraints.txt" in install or "--no-deps" in install, install
    assert not re.search(r"^ADD |curl |sudo ", text, re.M)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_an_image_copies_exists_and_reaches_the_builder(file: object) -> None:
    path = DOCKER / str(file)
    allowed = [
        line.removeprefix("!")
        for line in path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for line in re.findall(r"^COPY (?!--from)(.*)$", path.read_text(), re.M):
        *sources, _ = line.split()
        for source in sources:
            # The README is written last, and is not ours to test.
            assert (ROOT / source).exists() or source == "README.md", source
            known = source in allowed or source.startswith("deploy/docker/requirements-")
            assert known, f"{source} is kept from the builder"


def _closure(file: str) -> set[str]:
    """Distributions that a requirements file brings, by way of what is installed here."""
    waiting = [
        Requirement(line)
        for line in (DOCKER / file).read_text().splitlines()
        if line and not line.startswith("#")
    ]
    brought: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in brought:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        brought.add(name)
        for need in map(Requirement, needs):
            extras = [{"extra": extra} for extra in (requirement.extras or {""})]
            if need.marker is None or any(need.marker.evaluate(extra) for extra in extras):
                waiting.append(need)
    return brought


_PROBE = """
import importlib, sys
allowed, modules = sys.argv[1].split(","), sys.argv[2].split(",")
class Wall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in BLOCKED:
            raise ModuleNotFoundError(f"{top} is not in the image", name=top)
from importlib import metadata
BLOCKED = {
    top for top, owners in metadata.packages_distributions().items()
    if not any(owner.lower().replace("_", "-").replace(".", "-") in allowed for owner in owners)
}
sys.meta_path.insert(0, Wall())
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.parametrize(
    ("requirements", "modules"),
    [
        (
            "requirements-server.txt",
            "dspark.gateway.__main__,dspark.controller.__main__,"
            # What is imported only where it is asked for.
            "opentelemetry.exporter.otlp.proto.grpc.trace_exporter,dspark.controller.redis_store",
        ),
        ("requirements-operator.txt", "dspark_operator.__main__"),
    ],
)
def test_a_slim_image_has_everything_that_its_processes_import(
    requirements: str, modules: str
) -> None:
    allowed = {*_closure(requirements), "dspark-serve"}
    path = ":".join(str(ROOT / folder) for folder in ("services", "operators", "kernels"))
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, ",".join(sorted(allowed)), modules],
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _installs(file: str) -> list[str]:
    """The arguments of every pip install of an image."""
    text = (DOCKER / file).read_text().replace("\\\n", " ")
    return [" ".join(words.split()) for words in re.findall(r"pip install (.*)", text)]


def test_what_an_image_installs_runs_from_a_plain_folder(tmp_path: Path) -> None:
    """The last install step of the slim images, carried out as written but for where it goes."""
    (step,) = {_installs(f"{name}.Dockerfile")[-1] for name in ("server", "operator")}
    assert step == "--prefix=/install --no-deps ."
    source, target = tmp_path / "src", tmp_path / "install"
    for copied in ("services", "kernels", "operators"):
        shutil.copytree(
            ROOT / copied, source / copied, ignore=shutil.ignore_patterns("__pycache__")
        )
    for copied in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / copied, source / copied)
    words = step.replace("/install", str(target)).split()
    done = subprocess.run(
        # The build's own tools are those of this environment instead of fresh ones, and what is
        # installed here stays: without a word pip would remove it in favour of the folder's.
        [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check",
         "--ignore-installed", "--no-build-isolation", "--no-index", *words],
        cwd=source, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (packages,) = target.glob("lib/python3*/site-packages")
    assert (packages / "dspark" / "py.typed").exists()
    assert list((packages / "dspark" / "demo").rglob("*.safetensors"))
    for module in ("dspark_operator", "dspark_operator.uninstall", "dspark.gateway",
                   "dspark.controller"):  # fmt: skip
        said = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"}, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr[-2000:]
        assert said.stdout.startswith("usage: ")


@pytest.mark.parametrize("file", ["requirements-server.txt", "requirements-operator.txt"])
def test_every_requirement_of_an_image_is_pinned_and_what_runs_here(file: str) -> None:
    pinned = {
        canonicalize_name(name): version
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M
        )
    }
    for name in sorted(_closure(file)):
        if name in pinned:
            assert metadata.version(name) == pinned[name], name
    for line in (DOCKER / file).read_text().splitlines():
        if line and not line.startswith("#"):
            assert canonicalize_name(Requirement(line).name) in pinned, line


def test_the_build_script_names_what_it_can_build() -> None:
    done = subprocess.run(
        [DOCKER / "build", "0.0.0", "nothing"],
        env={"BUILDER": "true", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no such image: nothing" in done.stderr
