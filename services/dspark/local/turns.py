"""Computing engines on given cores: their threads, and whose turn it is."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

from dspark.core.draft import DraftRequest, Proposal, Rows
from dspark.verifier.target_port import Segment

_T = TypeVar("_T")


class Cores:
    """Cores that engines compute on: each with so many threads, and one at a time if they share.

    Torch keeps a number of threads for every thread that calls it, and gives a new one the number
    that was set last by anybody: so each engine's thread sets its own.
    """

    def __init__(self, threads: int, device: AbstractContextManager[object]) -> None:
        """Take the cores.

        Args:
            threads: Of each engine.
            device: Held while an engine computes.
        """
        self._threads = threads
        self._device = device
        self._pinned = threading.local()

    def __call__(self, compute: Callable[[], _T]) -> _T:
        """Compute here."""
        with self._device:
            if not getattr(self._pinned, "done", False):
                torch.set_num_threads(self._threads)
                self._pinned.done = True
            return compute()


class CoreTarget:
    """A target whose steps run on given cores; all else is the target's own."""

    def __init__(self, target: Any, cores: Cores) -> None:
        self._target = target
        self._cores = cores

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        """See Target."""
        chosen: list[tuple[int, ...]] = self._cores(lambda: self._target.step(segments))
        return chosen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class CoreDrafter:
    """A drafter whose batches run on given cores; all else is the drafter's own."""

    def __init__(self, drafter: Any, cores: Cores) -> None:
        self._drafter = drafter
        self._cores = cores

    def append(self, key: object, start: int, rows: Rows) -> int:
        """See BlockModel."""
        cached: int = self._cores(lambda: self._drafter.append(key, start, rows))
        return cached

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """See BlockModel."""
        proposals: list[Proposal] = self._cores(lambda: self._drafter.draft(requests))
        return proposals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._drafter, name)
