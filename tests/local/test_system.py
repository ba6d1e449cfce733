import pytest

from dspark.config.model import ModelSettings
from dspark.core.generation import Generation, GenerationStats
from dspark.core.sampling import Sampling
from dspark.local.system import Ended, LocalSystem, Speculation
from tests.model import tiny
from tests.system.fleet import write_pair

GREEDY, SAMPLED = Sampling(), Sampling(temperature=0.9, seed=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    return write_pair(tmp_path_factory.mktemp("drafter"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", Speculation(enabled=False)),
        ("adaptive", Speculation(adaptive=True)),
        ("fixed:1", Speculation(max_draft_tokens=1)),
        ("fixed:12", Speculation(max_draft_tokens=12)),
    ],
)
def test_a_way_to_speculate_is_read(text: str, expected: Speculation) -> None:
    assert Speculation.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "on", "fixed", "fixed:", "fixed:0", "fixed:-1", "fixed:x", "fixed:²", "off:1"]
)
def test_anything_else_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="is none of: off, adaptive, fixed:K with K >= 1"):
        Speculation.parse(text)


def run(model: ModelSettings, how: str) -> tuple[list[list[int]], list[GenerationStats]]:
    """A greedy and a sampled generation of a short and a longer prompt."""
    speculation = Speculation.parse(how)
    streams, counts = [], []
    with LocalSystem(model, speculation, num_pages=32) as system:
        for sampling in (GREEDY, SAMPLED):
            for length in (5, 40):
                generation = Generation(
                    request_id="r",
                    prompt=tuple(tiny.prompt(length, seed=1)),
                    max_new_tokens=12,
                    sampling=sampling,
                    speculate=speculation.enabled,
                    max_draft_tokens=speculation.max_draft_tokens,
                )
                tokens: list[int] = []
                for event in system.stream(generation):
                    if isinstance(event, Ended):
                        counts.append(event.stats)
                    else:
                        tokens.extend(event)
                streams.append(tokens)
    return streams, counts


def test_the_stream_is_the_same_however_it_speculates(model: ModelSettings) -> None:
    off, plain = run(model, "off")
    fixed, three = run(model, "fixed:3")
    adaptive, _ = run(model, "adaptive")
    assert [len(tokens) for tokens in off] == [12] * 4
    assert fixed == adaptive == off
    assert all(stats.drafted_steps == 0 for stats in plain)
    assert all(stats.drafted_steps > 0 for stats in three)
    assert all(sum(stats.accepted_histogram[4:]) == 0 for stats in three)


def test_what_cannot_fit_is_refused(model: ModelSettings) -> None:
    with LocalSystem(model, Speculation(enabled=False), num_pages=8) as system:
        generation = Generation(request_id="r", prompt=(1,), max_new_tokens=80, sampling=GREEDY)
        with pytest.raises(ValueError, match="make 81, more than the 64 that fit"):
            next(system.stream(generation))
