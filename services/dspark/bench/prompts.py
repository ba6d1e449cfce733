"""Prompts: the packaged ones or a file's, mixed over their domains."""

import json
from dataclasses import dataclass
from importlib import resources
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Any

BUILTIN = "builtin"

_FALLBACK = (
    ("code", "def fibonacci(n):\n"),
    ("prose", "The sequence types are"),
    ("arithmetic", "Question: Anna has 12 apples and buys 7 more. How many has she?\nAnswer:"),
)
"""What ``builtin`` means where the package carries no trained pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Text to continue; ``domain`` is "" where the file names none."""

    domain: str
    text: str


def load_prompts(source: str, domain: str | None, *, seed: int) -> tuple[Prompt, ...]:
    """Return the prompts of ``source``, mixed so that any first few hold every domain.

    Args:
        source: "builtin", or a file of JSON lines with "prompt" (and "domain"), or with "turns",
            of which the first counts.
        domain: Only this one; None for all.
        seed: Of the order within each domain.

    Raises:
        ValueError: The file cannot be read, or holds no such prompt.
    """
    prompts = _builtin() if source == BUILTIN else _read(Path(source))
    domains = sorted({prompt.domain for prompt in prompts})
    if domain is not None and domain not in domains:
        raise ValueError(f"{source}: no prompt of domain {domain!r}, only of {', '.join(domains)}")
    return mixed([p for p in prompts if domain in (None, p.domain)], seed=seed)


def mixed(prompts: list[Prompt], *, seed: int) -> tuple[Prompt, ...]:
    """Shuffle each domain, then take one of each in turn."""
    by_domain: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_domain.setdefault(prompt.domain, []).append(prompt)
    for domain, own in by_domain.items():
        Random(f"{seed}/{domain}").shuffle(own)
    turns = zip_longest(*(by_domain[domain] for domain in sorted(by_domain)))
    return tuple(prompt for prompt in chain.from_iterable(turns) if prompt is not None)


def _builtin() -> list[Prompt]:
    file = resources.files("dspark").joinpath("demo", "prompts.jsonl")
    if not file.is_file():
        return [Prompt(domain=domain, text=text) for domain, text in _FALLBACK]
    return _parse(file.read_text(encoding="utf-8"), "the packaged prompts")


def _read(path: Path) -> list[Prompt]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; --prompts takes a file or builtin") from None
    return _parse(text, str(path))


def _parse(text: str, source: str) -> list[Prompt]:
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(_prompt(json.loads(line)))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ValueError(
                f'{source}: line {number} is no {{"prompt": TEXT}} or {{"turns": [TEXT, ...]}}'
            ) from None
    if not prompts:
        raise ValueError(f"{source}: no prompts")
    return prompts


def _prompt(entry: dict[str, Any]) -> Prompt:
    text = entry["prompt"] if "prompt" in entry else entry["turns"][0]
    if not isinstance(text, str) or not text:
        raise ValueError("no text")
    return Prompt(domain=str(entry.get("domain", "")), text=text)
