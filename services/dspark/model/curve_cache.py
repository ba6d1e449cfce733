"""Profiled curves kept on disk, so that a replica that starts again need not measure again."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dspark.core.curve import Curve, CurvePoint, make_curve

log = logging.getLogger(__name__)


def cached_curve(
    folder: str | None, *, kind: str, version: str, sizes: str, measure: Callable[[], Curve]
) -> Curve:
    """Return the kept curve of this very engine and these sizes, or measure and keep it.

    What is kept for another version or other sizes, or cannot be read, is refused and measured
    anew.  A folder that cannot be written costs a warning only.

    Args:
        folder: Where curves are kept; None measures always.
        kind: "verifier" or "drafter".
        version: Of the curve: model, device, engine, threads, software.
        sizes: Names what was measured.
        measure: Measures.
    """
    if folder is None:
        return measure()
    path = Path(folder).expanduser() / f"{kind}-{version}.json"
    kept = _read(path, version=version, sizes=sizes)
    if kept is not None:
        log.info("curve %s of %s is taken from %s", version, kind, path)
        return kept
    curve = measure()
    try:
        _write(path, curve, sizes=sizes)
    except OSError as error:
        log.warning("the curve is not kept: %s: %s", path, error)
    return curve


def _read(path: Path, *, version: str, sizes: str) -> Curve | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if (kept["version"], kept["sizes"]) != (version, sizes):
            log.warning(
                "%s is of %s with sizes %s, not of %s with %s: measured anew",
                path, kept["version"], kept["sizes"], version, sizes,
            )  # fmt: skip
            return None
        points = tuple(CurvePoint(**point) for point in kept["points"])
        return make_curve(kept["version"], kept["device"], points)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be used (%s): measured anew", path, error)
        return None


def _write(path: Path, curve: Curve, *, sizes: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Replicas that start together write the same file: each its own, the last one stays.
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps({"sizes": sizes, **asdict(curve)}) + "\n", encoding="utf-8")
    fresh.replace(path)
