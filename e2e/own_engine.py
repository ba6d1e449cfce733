"""Our engines in one process on the demo target, as another way to generate greedily."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dspark.config.model import ModelSettings
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.local.system import Ended, LocalSystem, Speculation
from dspark.model.target_folder import read_sizes
from e2e.vllm.prompts import TARGET


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Attributes:
    tokens: What was generated.
    drafted: Steps with a draft.
    accepted: Draft tokens accepted in them.
    """

    tokens: list[int]
    drafted: int
    accepted: int


@contextmanager
def own_engine(
    speculation: Speculation, model: ModelSettings, *, num_pages: int, max_sessions: int = 1
) -> Iterator[Callable[[Sequence[int], int], Written]]:
    """Yield what continues (a prompt, by at most so many tokens); from any thread."""
    stops = frozenset(read_sizes(TARGET).eos_token_ids)
    with LocalSystem(model, speculation, num_pages=num_pages, max_sessions=max_sessions) as system:

        def write(prompt: Sequence[int], max_tokens: int) -> Written:
            request = Generation(
                request_id="e2e",
                prompt=tuple(prompt),
                max_new_tokens=max_tokens,
                sampling=Sampling(),
                stop_tokens=stops,
                speculate=speculation.enabled,
                max_draft_tokens=speculation.max_draft_tokens,
            )
            tokens: list[int] = []
            drafted = accepted = 0
            for event in system.stream(request):
                if isinstance(event, Ended):
                    drafted = event.stats.drafted_steps
                    accepted = event.stats.accepted_draft_tokens
                else:
                    tokens += event
            return Written(tokens=tokens, drafted=drafted, accepted=accepted)

        yield write
