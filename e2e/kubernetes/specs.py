"""Specs that the stories begin with."""

from copy import deepcopy
from typing import Any

Document = dict[str, Any]


def group(name: str, least: int, most: int, **more: Any) -> Document:
    """Replicas with one GPU each."""
    return {
        "name": name,
        "replicas": {"min": least, "max": most},
        "resources": {"limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 1}},
        "nodeSelector": {"sku": "h200"},
        **more,
    }


_PAIR: Document = {
    "model": {
        "name": "m",
        "target": {"pvc": {"claimName": "weights", "path": "target"}},
        "drafter": {"pvc": {"claimName": "weights", "path": "drafter"}},
    },
    "pools": [
        {"name": "verifier", "role": "verifier", "groups": [group("big", 1, 2)]},
        {"name": "drafter", "role": "drafter", "groups": [group("small", 0, 2)]},
    ],
}


def pair() -> Document:
    """A verifier and a drafter on a GPU each; at most four GPUs."""
    return deepcopy(_PAIR)


def plain() -> Document:
    """One verifier without a GPU, and nothing that drafts."""
    return {
        "model": {"name": "m", "target": {"builtin": "demo/target"}},
        "pools": [{"name": "verifier", "role": "verifier", "groups": [{"name": "cpu"}]}],
    }
