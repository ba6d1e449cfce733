"""The drafter pool follows a live load, up and down, and no stream notices."""

from collections.abc import Iterator

import pytest

from e2e.equality import load_prompts
from e2e.paced_stack import Load, generate, paced_words, pool
from e2e.stack import Stack, running_stack, wait_until

pytestmark = pytest.mark.slow

TOKENS = 96


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    state_dir = tmp_path_factory.mktemp("state")
    words = paced_words(
        state_dir,
        # Drafting a token is dear here, so that eight sessions are worth a second drafter and
        # one is not.
        "model.paced.drafter.token_s=0.0001",
        "pools.drafter.max_replicas=2",
        "pools.drafter.min_replicas=1",
        "pools.drafter.scaling={up_after_s: 1, down_after_s: 5}",
    )
    with running_stack(state_dir, words) as running:
        yield running


def drafters(stack: Stack) -> tuple[int, int]:
    """How many are wanted and ready."""
    found = pool(stack, "drafter")
    return found["wanted_replicas"], found["ready_replicas"]


def test_one_two_one_drafters_under_load_with_no_stream_harmed(stack: Stack) -> None:
    assert drafters(stack) == (1, 1)
    prompts = load_prompts(8)
    plain = generate(stack, prompts, tokens=TOKENS, mode="off")
    with Load(stack, prompts, TOKENS) as heavy:
        wait_until(lambda: drafters(stack) == (2, 2), timeout_s=180, what="a second drafter")
        assert "drafting" in pool(stack, "drafter")["wanted_because"]
        before = len(heavy.runs)
        # Sessions of new requests go to both.
        wait_until(lambda: len(heavy.runs) >= before + 2, timeout_s=180, what="runs on both")
        busy = [one["active_sessions"] for one in pool(stack, "drafter")["replicas"]]
        assert len(busy) == 2
    with Load(stack, prompts[:1], TOKENS) as light:
        wait_until(lambda: drafters(stack) == (1, 1), timeout_s=180, what="one drafter again")
        after = len(light.runs)
        wait_until(lambda: len(light.runs) >= after + 2, timeout_s=180, what="runs on the other")
    assert heavy.same_as(plain), heavy.failure
    assert light.failure is None
    assert all(run.outcomes[0].token_ids == plain.outcomes[0].token_ids for run in light.runs)
    assert all(run.accepted_length is not None for run in heavy.runs), "every run was drafted"
