"""A journal of training: one JSON object a line, closed after each, so a crash loses nothing."""

import json
from collections.abc import Mapping
from pathlib import Path


def append_facts(path: Path, facts: Mapping[str, object]) -> None:
    """Append one line."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(facts) + "\n")
