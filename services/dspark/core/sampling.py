"""How a request wants its tokens chosen."""

from dataclasses import dataclass
from enum import Enum

GREEDY_TEMPERATURE = 1e-5
"""Below this a temperature means argmax (algorithm: p and q are one-hot)."""


class SamplingMode(Enum):
    """How drafts are held against the target where tokens are sampled; greedy needs neither.

    COUPLED: drafter and target share their noise, and a draft is accepted iff it is the token
    that the target chooses; the output depends on (seed, target) alone.
    REJECTION: the drafter draws with randomness of its own and ships what it drew from; exact in
    law, but which tokens come out depends on the drafter too.
    """

    COUPLED = "coupled"
    REJECTION = "rejection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling of one session; the same values reach verifier and drafter.

    Attributes:
        temperature: 0 for greedy, at most 2.
        seed: Key of the coupled noise, 0 <= seed < 2**63.
        choice: Index among the n choices of one request; keys the noise too.
        top_k: Keep the k likeliest tokens; 0 for no limit.
        top_p: Keep the smallest set of tokens with at least this mass; 1 for no limit.
        min_p: Keep tokens with at least this share of the likeliest one's mass; 0 for no limit.
        mode: How drafts are judged.
    """

    temperature: float = 0.0
    seed: int = 0
    choice: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    mode: SamplingMode = SamplingMode.COUPLED

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise ValueError(f"temperature {self.temperature} is outside 0..2")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is outside 0..2**63-1")
        if self.choice < 0:
            raise ValueError(f"choice {self.choice} is negative")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} is negative; 0 means no limit")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p {self.top_p} is outside 0 < top_p <= 1")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p {self.min_p} is outside 0..1")

    @property
    def greedy(self) -> bool:
        """Whether the token is the argmax and no noise is drawn."""
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def rejects(self) -> bool:
        """Whether drafts are judged by rejection, so that they must come with their laws."""
        return self.mode is SamplingMode.REJECTION and not self.greedy
