"""A real browser for the stories of ``page.mjs``: Chromium, driven by playwright-core."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dspark"
MODULES = Path(os.environ.get("DSPARK_PLAYWRIGHT") or _CACHE / "playwright-core-1.65.1")
_TIMEOUT_S = 120.0


def chromium() -> str | None:
    """Return the browser's path, or None."""
    return os.environ.get("DSPARK_CHROMIUM") or shutil.which("chromium")


def missing() -> str | None:
    """Say what is not here, or None."""
    if chromium() is None:
        return "no chromium: apt-get install chromium"
    if shutil.which("node") is None:
        return "no node"
    if not (MODULES / "node_modules" / "playwright-core").is_dir():
        return f"no playwright-core in {MODULES}: `make e2e` fetches it where there is npm"
    return None


needs_browser = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def look(story: str, url: str, **more: object) -> dict[str, Any]:
    """Tell one story of ``page.mjs`` and return what was seen."""
    given = {"story": story, "url": url, "chromium": chromium(), "modules": f"{MODULES}/", **more}
    done = subprocess.run(
        ["node", str(Path(__file__).parent / "page.mjs"), json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
