"""What a request of a pool tells the proposer, beside what vLLM itself has parameters for.

It rides in ``SamplingParams.extra_args``, which vLLM hands on to its worker unread.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

log = logging.getLogger(__name__)

KEY = "dspark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Of one request; the defaults are those of a request that says nothing.

    Attributes:
        session: Number that the pool knows it by; 0: none, and nobody accounts for it.
        speculate: Whether to draft.
        max_draft_tokens: Largest draft; 0 for the block size.
        priority: What a budget may weigh its drafts by.
        trial: Whether its drafts are as long as whoever measures steps says, and nobody's.
    """

    session: int = 0
    speculate: bool = True
    max_draft_tokens: int = 0
    priority: int = 0
    trial: bool = False

    def extra_args(self) -> dict[str, dict[str, object]]:
        """Return them in vLLM's form."""
        return {
            KEY: {
                "session": self.session,
                "speculate": self.speculate,
                "max_draft_tokens": self.max_draft_tokens,
                "priority": self.priority,
                "trial": self.trial,
            }
        }


NONE = Wishes()


def wishes_of(extra_args: Mapping[str, object] | None) -> Wishes:
    """Read them; requests of others than the pool have none.

    Raises:
        ValueError: They are not in the form of ``extra_args``.
    """
    given = (extra_args or {}).get(KEY)
    if given is None:
        return NONE
    if not isinstance(given, Mapping):
        raise ValueError(f"extra_args.{KEY} is {given!r}, and takes names and values")
    try:
        return Wishes(**given)
    except TypeError as error:
        raise ValueError(f"extra_args.{KEY}: {error}") from None


class WishBook:
    """Wishes of running requests, read once each."""

    def __init__(self) -> None:
        self._read: dict[str, Wishes] = {}

    def of(self, request: str, params: "SamplingParams") -> Wishes:
        """What a request asked for; what cannot be read asks for nothing."""
        found = self._read.get(request)
        if found is None:
            try:
                found = wishes_of(params.extra_args)
            except ValueError as error:
                log.warning("request %s: %s", request, error)
                found = NONE
            self._read[request] = found
        return found

    def forget(self, requests: Iterable[str]) -> None:
        """These ended."""
        for request in requests:
            self._read.pop(request, None)
