import pytest

from dspark.bench.arms import across, parse_arm, parse_arms, parse_latencies, parse_topologies


@pytest.mark.parametrize(
    ("text", "speculation"),
    [
        ("off", {"enabled": False}),
        ("fixed:3", {"enabled": True, "max_draft_tokens": 3}),
        ("adaptive", {"enabled": True}),
    ],
)
def test_an_arm_is_what_every_request_asks_for(text: str, speculation: object) -> None:
    arm = parse_arm(text)
    assert (arm.name, arm.speculation) == (text, speculation)


@pytest.mark.parametrize("text", ["", "on", "fixed", "fixed:0", "fixed:-1", "fixed:x", "fixed:²"])
def test_an_unknown_arm_is_named_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of: off, adaptive, fixed:K"):
        parse_arm(text)


def test_arms_keep_their_order() -> None:
    assert [arm.name for arm in parse_arms("adaptive, off,fixed:2")] == [
        "adaptive", "off", "fixed:2",
    ]  # fmt: skip


def test_one_length_written_twice_is_one_arm_too_many() -> None:
    with pytest.raises(ValueError, match="'fixed:7' appears twice"):
        parse_arms("fixed:7,fixed:07")


def test_arms_that_draft_come_in_every_topology_and_off_once() -> None:
    arms = across(parse_arms("off,fixed:2"), parse_topologies("disaggregated,colocated"))
    assert [(arm.name, arm.kind, arm.topology) for arm in arms] == [
        ("fixed:2", "fixed:2", "disaggregated"),
        ("off", "off", "colocated"),  # with the cores of both
        ("fixed:2@colocated", "fixed:2", "colocated"),
    ]
    (off, _) = across(parse_arms("off,fixed:2"), parse_topologies("disaggregated"))
    assert (off.name, off.topology) == ("off", "disaggregated")


def test_arms_that_draft_come_at_every_distance_and_off_once() -> None:
    arms = across(
        parse_arms("off,adaptive"), parse_topologies("disaggregated,colocated"), (0.0, 5.0)
    )
    assert [(arm.name, arm.kind, arm.place) for arm in arms] == [
        ("adaptive", "adaptive", ("disaggregated", 0.0)),
        ("adaptive@5ms", "adaptive", ("disaggregated", 5.0)),
        ("off", "off", ("colocated", 0.0)),
        ("adaptive@colocated", "adaptive", ("colocated", 0.0)),
    ]
    far = across(parse_arms("off,fixed:2"), parse_topologies("disaggregated"), (2.5,))
    assert [(arm.name, arm.latency_ms) for arm in far] == [("off", 2.5), ("fixed:2@2.5ms", 2.5)]


@pytest.mark.parametrize("text", ["", "-1", "1,1", "nan", "0;5"])
def test_a_delay_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"--latency-ms .* is no list of different numbers"):
        parse_latencies(text)


@pytest.mark.parametrize("text", ["", "remote", "colocated,colocated", "colocated,"])
def test_an_unknown_topology_is_named_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match="no list of different ones of disaggregated, colocated"):
        parse_topologies(text)
